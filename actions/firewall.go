package actions

// FirewallOptions says with what addresses are blocked.
type FirewallOptions struct {
	Kind string // "auto", "csf", "nft" or "none"
	CSF  string // the program
	NFT  string // the program
	// NeverBlock are networks that are never blocked, beside private ones and our own.
	NeverBlock []string

	root string // before the paths of lists and of csf's files; tests set it
}
