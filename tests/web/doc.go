// Package web holds the acceptance tests of the page: a real Chromium, driven as a person
// would use it, against the real daemon and mail sent through the real Exim; by osmctl web
// and inside a stand-in of WHM's frame.
package web
