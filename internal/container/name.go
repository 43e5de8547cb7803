package container

import "crypto/rand"

// A container that nobody named is named after the trade.
var (
	adjectives = [...]string{"bold", "brisk", "calm", "clean", "crisp", "deft", "dry", "even", "fine", "firm", "fresh", "keen",
		"lean", "light", "neat", "patient", "plain", "quick", "quiet", "round", "sharp", "slim", "smooth", "steady", "thin", "trim", "true", "warm"}
	nouns = [...]string{"adze", "ash", "basswood", "beech", "birch", "blade", "bowl", "burl", "cedar", "chip", "chisel", "curl",
		"elm", "gouge", "grain", "knife", "lathe", "linden", "mallet", "maple", "oak", "pine", "plane", "rasp", "sliver", "spoon", "strop", "walnut"}
)

func randomName() string {
	var b [2]byte
	rand.Read(b[:])
	return adjectives[int(b[0])%len(adjectives)] + "_" + nouns[int(b[1])%len(nouns)] + "_" + rand.Text()[:3]
}
