package audit

import (
	"bytes"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	headName   = "head"
	headPrefix = "sluice audit head\n"
	maxHead    = 4 << 10
)

// head says where the log begins and ends. Without it a log that lacks its last
// lines or its first file would look whole.
type head struct {
	// Gen rises by one with each head; lines written under it carry it.
	Gen uint64 `json:"gen"`
	// Seq is the last event's.
	Seq int64 `json:"seq"`
	// File is the seq of the first event in the last file (0: none in it yet),
	// Lines how many lines that file has, Last the mac of the last one.
	File  int64  `json:"file"`
	Lines int    `json:"lines"`
	Last  string `json:"last"`
	// FirstFile is the number of the first file kept (0: none was dropped),
	// FirstPrev the mac that its first line follows.
	FirstFile int64  `json:"first_file"`
	FirstPrev string `json:"first_prev"`
}

var errHead = errors.New("it does not match its mac")

func (s *sealer) sealHead(h head) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	body = body[:len(body)-1]
	mac := s.sum(headPrefix, body)
	return append(body, macKey+mac+"\"}\n"...), nil
}

func (s *sealer) openHead(data []byte) (head, error) {
	line, ok := bytes.CutSuffix(data, []byte("\n"))
	if !ok || len(data) > maxHead {
		return head{}, errHead
	}
	body, mac, ok := s.split(line)
	if !ok || !hmac.Equal([]byte(s.sum(headPrefix, body)), []byte(mac)) {
		return head{}, errHead
	}
	var h head
	if err := json.Unmarshal(append(bytes.Clone(body), '}'), &h); err != nil {
		return head{}, errHead
	}
	return h, nil
}

// replace writes a file so that either the old or the new one is there, whole,
// whenever the power goes. published says whether the new one took its place
// although an error followed.
func replace(path string, data []byte) (published bool, err error) {
	if err := stage(path, data); err != nil {
		return false, err
	}
	if err := os.Rename(staged(path), path); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// staged is where a file is written before it takes the place of another.
func staged(path string) string { return path + ".new" }

// stage writes a file, to the disk, where nobody looks yet.
func stage(path string, data []byte) error {
	f, err := os.OpenFile(staged(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(staged(path)))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
