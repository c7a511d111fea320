package pool

import (
	"errors"
	"fmt"
	"strings"
)

// NoPool says that no pool has this name.
func NoPool(name string) *Error {
	return &Error{Code: CodeNotFound, Message: fmt.Sprintf("there is no pool %q", name), missing: missing{pool: name}}
}

// NoCredential says that no credential has this name.
func NoCredential(name string) *Error {
	return &Error{Code: CodeNotFound, Message: fmt.Sprintf("there is no credential %q", name), missing: missing{credential: name}}
}

// NoMember says that a pool has no member of this name.
func NoMember(pool, credential string) *Error {
	return &Error{
		Code: CodeNotFound, Message: fmt.Sprintf("pool %q has no member %q", pool, credential),
		missing: missing{pool: pool, credential: credential},
	}
}

// missing are the names that an error is about: that of a pool, or of a credential, or of
// the one that is no member of the other.
type missing struct{ pool, credential string }

// Near asks, behind an error about a name, whether the nearest of those that there are was
// meant. It changes nothing if none is near.
func (e *Error) Near(names []string) *Error {
	typed := e.missing.credential
	if typed == "" {
		typed = e.missing.pool
	}
	near := Nearest(typed, names)
	if near == "" {
		return e
	}
	asked := *e
	asked.Message += fmt.Sprintf("; did you mean %q?", near)
	return &asked
}

// near is Near with the names that there are, for errors of the store: so each channel
// asks the same.
func (v *view) near(err error) error {
	var known *Error
	if !errors.As(err, &known) || known.missing == (missing{}) || err.Error() != known.Message {
		return err
	}
	var names []string
	p := v.pool(known.missing.pool)
	switch {
	case known.missing.credential == "":
		for name := range v.pools.all() {
			names = append(names, name)
		}
	case p != nil:
		for i := range p.members {
			names = append(names, p.members[i].name)
		}
	default:
		for name := range v.credentials.all() {
			names = append(names, name)
		}
	}
	return known.Near(names)
}

// Nearest is what was meant by a word that is misspelt: the candidate with the fewest
// letters to insert, drop, change or swap with the next, or "" if for each that would be
// more than one in three. Of two that are as near it is the one that sorts first.
func Nearest(typed string, candidates []string) string {
	best, least := "", (len(typed)+1)/3
	for _, candidate := range candidates {
		d := distance(strings.ToLower(typed), strings.ToLower(candidate))
		if d < least || d == least && (best == "" || candidate < best) {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of those steps from a to b (optimal string alignment), by three
// rows of the table at a time.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
