// Users with think time: each connects, sends 3 to 7 messages and waits for their
// echoes, with pauses, closes, and begins again.
//
//	k6 run -e URL=ws://127.0.0.1:8080/echo -e USERS=1200 -e SECONDS=20 sessions.js
import { sleep } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { setTimeout } from 'k6/timers';
import { WebSocket } from 'k6/websockets';

// Times are recorded separately for each tenth of the run. k6 puts such a part of a
// metric into its summary only if the part has a threshold.
const parts = [...'0123456789'];
const thresholds = {};
parts.forEach((part) => ['ws_connecting', 'trip'].forEach((metric) => (thresholds[`${metric}{part:${part}}`] = [])));

export const options = {
  thresholds,
  scenarios: { users: { executor: 'constant-vus', vus: Number(__ENV.USERS), duration: `${__ENV.SECONDS}s`, gracefulStop: '10s' } },
  summaryTrendStats: ['med', 'p(95)', 'p(99)'],
};

const trip = new Trend('trip', true);
const failed = new Counter('failed');
const message = 'm'.repeat(128);

// Unlike Date.now, this is finer than a millisecond.
const now = () => exec.instance.currentTestRunDuration;
const part = () => ({ part: parts[Math.min(Math.floor(now() / 100 / __ENV.SECONDS), 9)] });

export default function () {
  if (exec.vu.iterationInInstance === 0) {
    sleep(3 * Math.random()); // not all at once
  }
  let left = 3 + Math.floor(5 * Math.random()), sent = 0;
  const socket = new WebSocket(__ENV.URL, null, { tags: part() });
  const pause = (act) => setTimeout(act, 200 + 400 * Math.random());
  const send = () => {
    sent = now();
    socket.send(message);
  };
  socket.onopen = () => pause(send);
  socket.onmessage = (event) => {
    trip.add(now() - sent, part());
    if (event.data !== message) {
      failed.add(1);
    }
    left--;
    pause(left > 0 ? send : () => socket.close());
  };
  socket.onerror = () => failed.add(1);
}
