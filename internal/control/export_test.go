package control

// ForgetNear makes the next call walk the counters again.
func (s *Service) ForgetNear() { s.nearest.forget() }
