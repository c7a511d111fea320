package store_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(rekeyDir); dir != "" {
		fmt.Fprintln(os.Stderr, rekeyInChild(dir, os.Getenv(rekeyStep)))
		os.Exit(1) // it was to be killed
	}
	goleak.VerifyTestMain(m)
}
