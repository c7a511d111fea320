// Command go sends a frame, in hexadecimal, by the link of the index that it is given, around the link's queues. It is for 32 bits.
package main

import (
	"encoding/hex"
	"os"
	"strconv"
	"syscall"
)

const packetQdiscBypass = 20 // include/uapi/linux/if_packet.h

func main() {
	if len(os.Args) != 3 {
		return
	}
	if err := send(os.Args[1], os.Args[2]); err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("sent")
}

func send(link, text string) error {
	index, err := strconv.Atoi(link)
	if err != nil {
		return err
	}
	frame, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_PACKET, packetQdiscBypass, 1); err != nil {
		return err
	}
	return syscall.Sendto(fd, frame, 0, &syscall.SockaddrLinklayer{Ifindex: index, Halen: 6})
}
