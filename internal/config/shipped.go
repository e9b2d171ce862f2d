package config

import _ "embed" // for the shipped osm.toml

//go:embed osm.toml
var shipped string

// Shipped is the osm.toml that is installed: every key commented out with its default,
// and what it does.
func Shipped() string { return shipped }
