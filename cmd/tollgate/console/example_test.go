package console_test

import (
	"fmt"

	"tollgate/cmd/tollgate/console"
)

func ExampleMayListen() {
	fmt.Println(console.MayListen("127.0.0.1:8080", false))
	fmt.Println(console.MayListen("0.0.0.0:8080", true))
	// Output:
	// <nil>
	// <nil>
}
