package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// The fields of /proc/PID/stat that say where the environment is (proc_pid_stat(5)),
// counted from what follows the command's name.
const (
	statEnvStart = 50 - 3
	statEnvEnd   = 51 - 3
)

// wipeEnvironment overwrites the values of variables where the kernel put them when the
// process was executed, which is what /proc/PID/environ shows for as long as it lives.
func wipeEnvironment(which func(name string) bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("overwrite secrets in the environment: %w", err)
		}
	}()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	// The name may have spaces and parentheses in it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= statEnvEnd {
		return errors.New("/proc/self/stat does not say where they are")
	}
	start, err := strconv.ParseInt(string(fields[statEnvStart]), 10, 64)
	if err != nil {
		return err
	}
	end, err := strconv.ParseInt(string(fields[statEnvEnd]), 10, 64)
	if err != nil || end < start {
		return errors.Join(err, errors.New("/proc/self/stat does not say where they are"))
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	block := make([]byte, end-start)
	if _, err := memory.ReadAt(block, start); err != nil {
		return err
	}
	defer clear(block)
	for at := 0; at < len(block); {
		length := bytes.IndexByte(block[at:], 0)
		if length < 0 {
			length = len(block) - at
		}
		if i := bytes.IndexByte(block[at:at+length], '='); i >= 0 && which(string(block[at:at+i])) {
			value := bytes.Repeat([]byte{'x'}, length-i-1)
			if _, err := memory.WriteAt(value, start+int64(at+i+1)); err != nil {
				return err
			}
		}
		at += length + 1
	}
	return nil
}
