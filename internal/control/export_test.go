package control

import "time"

// ForgetNear makes the next call walk the counters again.
func (s *Service) ForgetNear() { s.nearest.forget() }

// PreviewText is what a preview says in words.
func PreviewText(p *Preview, back, asked time.Duration) string {
	return previewText(p, nounMessage, back, asked)
}
