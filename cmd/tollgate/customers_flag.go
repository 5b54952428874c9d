package main

import "github.com/alecthomas/kong"

// customerIDs are the values of --customer. One that is empty names the customer '', who stands for nobody; a
// list of kong would leave it out, and then all would be meant.
type customerIDs []string

// Decode reads ids that are separated by commas.
func (c *customerIDs) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("id", &text); err != nil {
		return err
	}
	ids := kong.SplitEscaped(text, ',')
	if len(ids) == 0 {
		ids = []string{""}
	}
	*c = append(*c, ids...)
	return nil
}
