// Command go connects to the IPv4 address and port that it is given and prints what it hears, with system calls alone.
package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) != 3 {
		return
	}
	port, _ := strconv.Atoi(os.Args[2])
	dst := &syscall.SockaddrInet4{Port: port}
	for i, part := range strings.Split(os.Args[1], ".") {
		n, _ := strconv.Atoi(part)
		dst.Addr[i] = byte(n)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(fd, dst)
	}
	buf := make([]byte, 64)
	n := 0
	if err == nil {
		n, err = syscall.Read(fd, buf)
	}
	if err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.Write(buf[:n])
}
