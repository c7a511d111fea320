package exchange

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoService sends each message back with the member it came with, and ends
// with an error when told to.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			for {
				var m wrapperspb.StringValue
				if err := s.RecvMsg(&m); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if m.Value == "fail" {
					return status.Error(codes.DataLoss, "as told")
				}
				m.Value += fmt.Sprint(md["authorization"])
				if err := s.SendMsg(&m); err != nil {
					return err
				}
			}
		},
	}},
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	srv := grpc.NewServer()
	srv.RegisterService(&echoService, struct{}{})
	b := newBench(t, setup{protos: []string{"h2"}, handler: srv})
	conn, err := grpc.NewClient("passthrough:///"+testHost,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: b.ca.pool, ServerName: testHost})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", b.addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	open := func() grpc.ClientStream {
		s, err := conn.NewStream(ctx, &echoService.Streams[0], "/test.Echo/Echo")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	for range 20 { // each message waits for the echo of the one before: full duplex
		if err := s.SendMsg(wrapperspb.String("x")); err != nil {
			t.Fatal(err)
		}
		var m wrapperspb.StringValue
		if err := s.RecvMsg(&m); err != nil || m.Value != "x[Bearer real-a]" {
			t.Fatalf("%q %v", m.Value, err)
		}
	}
	s.CloseSend()
	if err := s.RecvMsg(&wrapperspb.StringValue{}); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	s = open() // an error at once: a head that is the trailers
	s.SendMsg(wrapperspb.String("fail"))
	if err := s.RecvMsg(&wrapperspb.StringValue{}); status.Code(err) != codes.DataLoss {
		t.Errorf("error: %v", err)
	}
}
