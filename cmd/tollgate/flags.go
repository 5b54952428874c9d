package main

import (
	"errors"

	"github.com/alecthomas/kong"
)

// atMost bounds how many rows are shown, or how much of a file is looked at.
type atMost int

// Validate refuses what some stores would take for no limit, and others for their own.
func (n atMost) Validate() error {
	if n < 1 {
		return errors.New("want a number from 1 on")
	}
	return nil
}

// customerIDs are the values of --customer. One that is empty names the customer ”, who stands for nobody; a
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
