package config

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// key is one setting of a T: a Config, a trigger, a [[for]] or an [[exempt]]. The
// tables of keys are the one place that knows names, what is allowed and how a value
// is read and written; loading, checking, "config show" and the export all use them.
type key[T any] struct {
	name string
	want string                 // what is allowed: "must be …"
	set  func(t *T, v any) bool // takes the TOML value; false = not of the form in want
	ok   func(t *T) bool        // whether the value that t has is allowed; nil = always
	get  func(t *T) (v any)     // the TOML value; nil = not set, left out of an export
}

// valid reports whether t's value for the key is allowed.
func (k key[T]) valid(t *T) bool { return k.ok == nil || k.ok(t) }

// text is a key whose value is a string that ok allows.
func text[T any](name, want string, p func(*T) *string, ok func(string) bool) key[T] {
	return key[T]{name: name, want: want,
		set: func(t *T, v any) bool {
			s, is := v.(string)
			if is {
				*p(t) = s
			}
			return is
		},
		ok:  func(t *T) bool { return ok(*p(t)) },
		get: func(t *T) any { return *p(t) },
	}
}

// choice is a key whose value is one of a list of words.
func choice[T any](name string, p func(*T) *string, words ...string) key[T] {
	return text(name, "must be one of "+strings.Join(words, ", "), p, func(s string) bool { return slices.Contains(words, s) })
}

// word is a choice whose words a type of package policy knows.
func word[T any, V fmt.Stringer](name string, p func(*T) *V, parse func(string) (V, bool), words ...string) key[T] {
	return key[T]{name: name, want: "must be one of " + strings.Join(words, ", "),
		set: func(t *T, v any) bool {
			s, _ := v.(string)
			got, ok := parse(s)
			if !ok || !slices.Contains(words, s) {
				return false
			}
			*p(t) = got
			return true
		},
		ok:  func(t *T) bool { return slices.Contains(words, (*p(t)).String()) },
		get: func(t *T) any { return (*p(t)).String() },
	}
}

// number is a key whose value is a whole number in a range.
func number[T any](name string, p func(*T) *int64, low, high int64) key[T] {
	want := fmt.Sprintf("must be a whole number from %d to %d", low, high)
	return key[T]{name: name, want: want,
		set: func(t *T, v any) bool {
			n, is := whole(v)
			if is {
				*p(t) = n
			}
			return is
		},
		ok:  func(t *T) bool { return *p(t) >= low && *p(t) <= high },
		get: func(t *T) any { return *p(t) },
	}
}

// whole accepts 300 and 300.0, nothing with a fraction.
func whole(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case float64:
		if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
			return int64(n), true
		}
	}
	return 0, false
}

// boolean is a key whose value is true or false.
func boolean[T any](name string, p func(*T) *bool) key[T] {
	return key[T]{name: name, want: "must be true or false",
		set: func(t *T, v any) bool {
			b, is := v.(bool)
			if is {
				*p(t) = b
			}
			return is
		},
		get: func(t *T) any { return *p(t) },
	}
}

// duration is a key whose value is a duration in a range.
func duration[T any](name string, p func(*T) *time.Duration, low, high time.Duration, example string) key[T] {
	want := fmt.Sprintf("must be a duration from %s to %s, such as %q", FormatDuration(low), FormatDuration(high), example)
	k := parsed(name, want, p, ParseDuration, FormatDuration)
	k.ok = func(t *T) bool { return *p(t) >= low && *p(t) <= high }
	return k
}

// parsed is a key whose value is a string that parse understands.
func parsed[T, V any](name, want string, p func(*T) *V, parse func(string) (V, error), format func(V) string) key[T] {
	return key[T]{name: name, want: want,
		set: func(t *T, v any) bool {
			s, is := v.(string)
			if !is {
				return false
			}
			got, err := parse(s)
			if err != nil {
				return false
			}
			*p(t) = got
			return true
		},
		get: func(t *T) any { return format(*p(t)) },
	}
}

// names is a key whose value is a list of strings that ok allows.
func names[T any](name, want string, p func(*T) *[]string, ok func(string) bool) key[T] {
	return key[T]{name: name, want: want,
		set: func(t *T, v any) bool {
			var out []string
			for _, one := range list(v) {
				s, is := one.(string)
				if !is {
					return false
				}
				out = append(out, s)
			}
			*p(t) = out
			_, isList := v.([]any)
			return isList
		},
		ok:  func(t *T) bool { return !slices.ContainsFunc(*p(t), func(s string) bool { return !ok(s) }) },
		get: func(t *T) any { return anyList(*p(t)) },
	}
}

// numbers is a key whose value is a list of whole numbers that ok allows.
func numbers[T any](name, want string, p func(*T) *[]int64, ok func([]int64) bool) key[T] {
	return key[T]{name: name, want: want,
		set: func(t *T, v any) bool {
			out := []int64{}
			for _, one := range list(v) {
				n, is := whole(one)
				if !is {
					return false
				}
				out = append(out, n)
			}
			*p(t) = out
			_, isList := v.([]any)
			return isList
		},
		ok: func(t *T) bool { return ok(*p(t)) },
		get: func(t *T) any {
			out := []any{}
			for _, n := range *p(t) {
				out = append(out, n)
			}
			return out
		},
	}
}

// list makes one kind of slice of the two that the TOML package returns for arrays.
func list(v any) []any {
	switch l := v.(type) {
	case []any:
		return l
	case []map[string]any:
		out := make([]any, 0, len(l))
		for _, m := range l {
			out = append(out, m)
		}
		return out
	}
	return nil
}

func anyList(in []string) []any {
	out := make([]any, 0, len(in))
	for _, s := range in {
		out = append(out, s)
	}
	return out
}
