package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a file of people's decisions, where it is, and how to mend it.
type Problem struct {
	File    string
	Line    int // from 1; 0 = the file as a whole
	Column  int // from 1; 0 = the line as a whole
	Message string
}

// String is file:line:column: message, as editors and compilers understand it.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			where += fmt.Sprintf(":%d", p.Column)
		}
	}
	if where == "" {
		return p.Message
	}
	return where + ": " + p.Message
}

// Problems is everything that is wrong, in order of place.
type Problems []Problem

// Err is nil when nothing is wrong, else an error with one line for each problem.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (p *Problems) add(file string, line, column int, format string, args ...any) {
	*p = append(*p, Problem{file, line, column, fmt.Sprintf(format, args...)})
}

func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// didYouMean names the valid word nearest to word, and all of them where they are few.
func didYouMean(word string, valid []string) string {
	if len(valid) == 0 {
		return "there are none"
	}
	best, distance := "", len(word)/2+2
	for _, v := range valid {
		if d := editDistance(strings.ToLower(word), strings.ToLower(v)); d < distance {
			best, distance = v, d
		}
	}
	var parts []string
	if best != "" {
		parts = append(parts, fmt.Sprintf("did you mean %q?", best))
	}
	if len(valid) <= 24 {
		sorted := slices.Sorted(slices.Values(valid))
		parts = append(parts, "valid: "+strings.Join(sorted, ", "))
	}
	if len(parts) == 0 {
		return fmt.Sprintf("none of the %d known is similar", len(valid))
	}
	return strings.Join(parts, " ")
}

// editDistance is Levenshtein's: how many letters to add, drop or change.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64 // no typing mistake; bounds the work for hostile files
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
