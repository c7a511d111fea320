package telegram

import "time"

const (
	// strangerPause is how long a chat that is not configured is noted once.
	strangerPause = time.Hour
	// maxStrangers bounds what is remembered; further ones are noted as one.
	maxStrangers = 1024
)

// strangers are the chats that have asked and may not. The zero value knows none.
// It is not safe for concurrent use.
type strangers struct{ noted map[int64]time.Time }

// worthTelling says whether a stranger has not been noted for a while.
func (s *strangers) worthTelling(chat int64, now time.Time) bool {
	if s.noted == nil {
		s.noted = make(map[int64]time.Time)
	}
	if _, known := s.noted[chat]; !known && len(s.noted) >= maxStrangers {
		for other, at := range s.noted {
			if now.Sub(at) >= strangerPause {
				delete(s.noted, other)
			}
		}
		if len(s.noted) >= maxStrangers {
			chat = 0 // no chat has this id
		}
	}
	if at, known := s.noted[chat]; known && now.Sub(at) < strangerPause {
		return false
	}
	s.noted[chat] = now
	return true
}
