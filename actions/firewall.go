package actions

// FirewallOptions says with what addresses are blocked, and direct mail of accounts.
type FirewallOptions struct {
	Kind string // "auto", "csf", "nft" or "none": for addresses; with "none" nobody is blocked
	CSF  string // the program
	NFT  string // the program; direct mail is blocked by it, whatever blocks addresses
	// NeverBlock are networks that are never blocked, beside private ones and our own.
	NeverBlock []string

	root string // before the paths of lists and of csf's files; tests set it
}
