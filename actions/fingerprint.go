package actions

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// fingerprintKey is the key of the fingerprints of passwords. It is made when it is first
// needed and never leaves the folder of records: without it nobody can try passwords on a
// fingerprint, which osmd gets to see in a record.
func (s records) fingerprintKey() ([]byte, error) {
	const size = 32
	name := filepath.Join(s.dir, "fingerprint.key")
	key, err := os.ReadFile(name)
	switch {
	case err == nil && len(key) == size:
		return key, nil
	case err == nil:
		return nil, fmt.Errorf("the key of fingerprints %q has %d bytes, want %d: remove it, then it is made anew", name, len(key), size)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read the key of fingerprints: %w", err)
	}
	if err := s.folder(); err != nil {
		return nil, err
	}
	key = make([]byte, size)
	rand.Read(key)                                                                // never fails
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // one change at a time
	if err != nil {
		return nil, fmt.Errorf("make the key of fingerprints: %w", err)
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return nil, fmt.Errorf("make the key of fingerprints: %w", err)
	}
	return key, nil
}

// fingerprint tells two secrets apart and nothing else of them. of is whose it is, so that
// the same password of two does not show.
func (s records) fingerprint(of, secret string) (string, error) {
	key, err := s.fingerprintKey()
	if err != nil {
		return "", err
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(of + "\x00" + secret))
	return hex.EncodeToString(m.Sum(nil)[:16]), nil
}
