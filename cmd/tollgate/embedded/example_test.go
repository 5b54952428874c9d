package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded"
)

// A part is given a folder and gives an address; who connects does not know that it is embedded.
func ExampleStartBroker() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	broker, err := embedded.StartBroker(ctx, embedded.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := kafka.DialContext(ctx, "tcp", broker.Addr())
	if err != nil {
		fmt.Println(err)
		return
	}
	brokers, err := conn.Brokers()
	fmt.Println(len(brokers), "broker", err)
	fmt.Println(conn.Close(), broker.Close())
	// Output:
	// 1 broker <nil>
	// <nil> <nil>
}
