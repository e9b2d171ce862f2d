package control

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is what an operation was refused or failed with, as the API writes it.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"` // what to do next
	// Mistakes of a configuration, when that is what was wrong.
	Mistakes []string `json:"mistakes,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// failure makes an Error of a status.
func failure(status int, hint, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func badRequest(format string, args ...any) *Error {
	return failure(http.StatusBadRequest, "", format, args...)
}

func notFound(hint, format string, args ...any) *Error {
	return failure(http.StatusNotFound, hint, format, args...)
}

func forbidden(format string, args ...any) *Error {
	return failure(http.StatusForbidden, "ask the server's operator", format, args...)
}

func invalid(hint, format string, args ...any) *Error {
	return failure(http.StatusUnprocessableEntity, hint, format, args...)
}

func unavailable(hint, format string, args ...any) *Error {
	return failure(http.StatusServiceUnavailable, hint, format, args...)
}

// statusOf is the HTTP status of any error.
func statusOf(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Status != 0 {
		return e.Status
	}
	return http.StatusInternalServerError
}
