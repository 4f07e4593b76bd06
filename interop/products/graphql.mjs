// A GraphQL server and a subscribing client, both of graphql-ws over ws. Each prints
// JSON lines.
//
//   node graphql.mjs serve ADDRESS PORT MILLISECONDS
//   node graphql.mjs subscribe URL [all]
//
// MILLISECONDS are between two ticks. The client prints the first two, and with "all" it also retries errors that are
// not Close frames.
import { buildSchema } from 'graphql'
import { createClient } from 'graphql-ws'
import { useServer } from 'graphql-ws/use/ws'
import { WebSocket, WebSocketServer } from 'ws'

const print = (result) => console.log(JSON.stringify({ path: '', result }))
const [mode, ...args] = process.argv.slice(2)

if (mode === 'serve') {
  const schema = buildSchema('type Query { none: Int } type Subscription { ticks: Int }')
  async function * ticks () {
    for (let n = 1; ; n++) {
      yield { ticks: n }
      await new Promise((resolve) => setTimeout(resolve, args[2]))
    }
  }
  // Its pings come later than the test's read timeout.
  const server = new WebSocketServer({ host: args[0], port: Number(args[1]) }, () => print('listening'))
  useServer({ schema, roots: { subscription: { ticks } } }, server, 60_000)
} else {
  const client = createClient({
    url: args[0],
    webSocketImpl: WebSocket,
    retryAttempts: 100,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, 50)),
    shouldRetry: args[1] === 'all' ? () => true : undefined
  })
  client.on('closed', (e) => { if (e.code !== 1006) print({ closed: e.code }) }) // 1006: no Close frame
  client.on('connected', () => print('connected'))
  try {
    for await (const { data } of client.iterate({ query: 'subscription { ticks }' })) if (data.ticks <= 2) print(data.ticks)
  } catch (e) {
    print({ failed: e.code ?? e.error?.code ?? e.message })
  }
}
