package report

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// eachText replaces every text in a report by what f makes of it and of the max of its
// field. It goes by the type, so that a field that is added later cannot be forgotten.
// Lists are replaced and not written to: a copied report shares nothing with the first.
func eachText(r *Report, f func(s string, max int) string) {
	textsOf(reflect.ValueOf(r).Elem(), maxText, f)
}

func textsOf(v reflect.Value, most int, f func(string, int) string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(f(v.String(), most))
	case reflect.Slice:
		list := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(list, v)
		for i := range list.Len() {
			textsOf(list.Index(i), most, f)
		}
		v.Set(list)
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() && !field.Anonymous { // the embedded one is a moment
				textsOf(v.Field(i), maxOf(field), f)
			}
		}
	}
}

func maxOf(field reflect.StructField) int {
	if n, err := strconv.Atoi(field.Tag.Get("max")); err == nil {
		return n
	}
	return maxText
}

const ellipsis = "…"

// cut makes a text valid UTF-8 of at most max bytes. What was cut ends in "…".
func cut(s string, max int) string {
	if len(s) <= max && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // an invalid byte comes as utf8.RuneError
		if b.Len()+utf8.RuneLen(r) > max-len(ellipsis) {
			b.WriteString(ellipsis)
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
