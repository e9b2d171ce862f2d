package whm

import "html/template"

// iconPath is the drawing of a sign, in a square of 16.
func iconPath(name string) string {
	switch name {
	case "check":
		return "M3 8.6l3.3 3.2L13 4.6"
	case "snow":
		return "M8 1.6v12.8M2.5 4.8l11 6.4M13.5 4.8l-11 6.4M6.2 2.6L8 4.2l1.8-1.6M6.2 13.4L8 11.8l1.8 1.6"
	case "trash":
		return "M2.5 4.5h11M6 4.5V2.6h4v1.9M3.9 4.5l.8 9h6.6l.8-9M6.7 7.2v3.8M9.3 7.2v3.8"
	case "clock":
		return "M14.2 8A6.2 6.2 0 1 1 1.8 8a6.2 6.2 0 0 1 12.4 0zM8 4.4V8l2.5 1.7"
	case "cross":
		return "M4 4l8 8M12 4l-8 8"
	case "eye":
		return "M1.4 8S3.9 3.6 8 3.6 14.6 8 14.6 8 12.1 12.4 8 12.4 1.4 8 1.4 8zM9.9 8a1.9 1.9 0 1 1-3.8 0 1.9 1.9 0 0 1 3.8 0z"
	case "shield":
		return "M8 1.6l5.6 2v4.2c0 3.2-2.3 5.6-5.6 6.8-3.3-1.2-5.6-3.6-5.6-6.8V3.6z"
	case "off":
		return "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM3.8 12.2l8.4-8.4"
	case "alarm":
		return "M8 1.9l6.6 11.7H1.4zM8 6.3v3.4M8 11.7v.1"
	case "pause":
		return "M5.4 3v10M10.6 3v10"
	case "search":
		return "M11.4 6.9a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0zM10.2 10.2l4 4"
	case "undo":
		return "M3 6h6.5a3.6 3.6 0 0 1 0 7.2H5.5M3 6l3-3M3 6l3 3"
	case "dot":
		return "M9.5 8a1.5 1.5 0 1 1-3 0 1.5 1.5 0 0 1 3 0z"
	case "link":
		return "M6 3.5l4.5 4.5L6 12.5"
	}
	return navPath(name)
}

// navPath is the drawing of a section's sign.
func navPath(name string) string {
	switch name {
	case "now":
		return "M1.4 8.4h2.9l2-5.6 3.3 10.4 2-4.8h3"
	case "senders":
		return "M8.5 5.3a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0zM1.4 13.5c.3-2.6 2.1-4 4.6-4s4.3 1.4 4.6 4M10.6 3a2.5 2.5 0 0 1 0 4.7M12 9.8c1.5.5 2.4 1.8 2.6 3.7"
	case "messages":
		return "M1.5 3.5h13v9h-13zM1.7 4.2L8 9l6.3-4.8"
	case "connections":
		return "M1.5 8h4.2M10.3 8h4.2M12 5.6L14.5 8 12 10.4M10.3 8a2.3 2.3 0 1 1-4.6 0 2.3 2.3 0 0 1 4.6 0z"
	case "events":
		return "M3.5 14.5v-12.5h9l-1.8 3.3 1.8 3.3h-9"
	case "held":
		return "M1.5 9.5l2-6h9l2 6v3.4h-13zM1.7 9.5h3.8l1 1.6h3l1-1.6h3.8"
	case "limits":
		return "M1.8 4.5h7M12 4.5h2.2M1.8 11.5h2.2M7 11.5h7.2M12 4.5a1.6 1.6 0 1 1-3.2 0 1.6 1.6 0 0 1 3.2 0zM7 11.5a1.6 1.6 0 1 1-3.2 0 1.6 1.6 0 0 1 3.2 0z"
	case "exemptions":
		return "M14.2 8A6.2 6.2 0 1 1 1.8 8a6.2 6.2 0 0 1 12.4 0zM6.3 5.6v4.8M9.7 5.6v4.8"
	case "actions":
		return "M9 1.6L3.4 9h4L6.6 14.4 12.6 6.6h-4z"
	case "audit":
		return "M5.6 3.9h8.4M5.6 8h8.4M5.6 12.1h8.4M2.2 3.9h.4M2.2 8h.4M2.2 12.1h.4"
	case "settings":
		return "M10.2 8a2.2 2.2 0 1 1-4.4 0 2.2 2.2 0 0 1 4.4 0zM8 1.6v2M8 12.4v2M1.6 8h2M12.4 8h2M3.5 3.5l1.4 1.4M11.1 11.1l1.4 1.4M12.5 3.5l-1.4 1.4M4.9 11.1l-1.4 1.4"
	case "help":
		return "M14.2 8A6.2 6.2 0 1 1 1.8 8a6.2 6.2 0 0 1 12.4 0zM6.2 6.3a1.9 1.9 0 1 1 2.9 1.6c-.8.5-1.1.9-1.1 1.6M8 11.6v.1"
	}
	return ""
}

// icon draws a sign. It says nothing by itself: a word always stands beside it.
func icon(name string) template.HTML {
	return template.HTML(`<svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"><path d="` + iconPath(name) + `"/></svg>`)
}
