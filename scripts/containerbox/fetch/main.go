// Command fetch is the HTTPS client of the tests' image: it gets one URL and says who signed what it got.
//
//	fetch [-times N] [-every DURATION] [-patience DURATION] URL ['Name: value'...]
//
// Each line it prints is the status, the issuer of the server's certificate and
// the body's first line; or "error:" and why. It fails if any request failed.
package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	times := flag.Int("times", 1, "how often to get it, each time on a new connection; 0 = until killed")
	every := flag.Duration("every", 0, "how long to wait between two")
	patience := flag.Duration("patience", 20*time.Second, "how long one may take")
	insecure := flag.Bool("insecure", false, "take any certificate")
	flag.Parse()
	if flag.NArg() < 1 {
		flag.Usage()
		os.Exit(2)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: *insecure}}
	client := &http.Client{Transport: transport, Timeout: *patience}
	failed := false
	for i := 0; *times == 0 || i < *times; i++ {
		if i > 0 {
			time.Sleep(*every)
		}
		line, err := get(client, flag.Arg(0), flag.Args()[1:])
		if err != nil {
			line, failed = "error: "+err.Error(), true
		}
		fmt.Println(line)
	}
	if failed {
		os.Exit(1)
	}
}

func get(client *http.Client, url string, headers []string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	issuer := "-"
	if resp.TLS != nil {
		issuer = fmt.Sprintf("%q", resp.TLS.PeerCertificates[0].Issuer.CommonName)
	}
	body := bufio.NewReader(resp.Body)
	line, err := body.ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, issuer, strings.TrimSpace(line)), nil
}
