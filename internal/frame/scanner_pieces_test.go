package frame

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAFrameHeaderMayComeInPieces(t *testing.T) {
	stream := append([]byte{0x82, 0xfe, 0x00, 0x80, 1, 2, 3, 4}, make([]byte, 128)...)
	for first := range len(stream) {
		for second := first; second < len(stream); second++ {
			s := Scanner{Masked: true}
			messages := s.All(stream[:first]) + s.All(stream[first:second]) + s.All(stream[second:])
			assert.True(t, s.Boundary() && messages == 1, "split at %d and %d", first, second)
		}
	}
}
