#include "data/tasks/words.h"

#include <array>
#include <string_view>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr auto kNouns = std::to_array<std::string_view>({
    "acorn",   "anchor",  "apple",    "apron",   "arrow",   "attic",   "axle",     "badge",
    "bagel",   "bakery",  "ballad",   "bamboo",  "banner",  "barge",   "barn",     "basket",
    "beacon",  "beaver",  "bell",     "bench",   "berry",   "bicycle", "blanket",  "boat",
    "bonnet",  "border",  "bottle",   "boulder", "branch",  "bread",   "brick",    "bridge",
    "bronze",  "broom",   "brush",    "bucket",  "button",  "cabin",   "cactus",   "camel",
    "candle",  "canoe",   "canvas",   "carpet",  "castle",  "cedar",   "cellar",   "chain",
    "chair",   "chalk",   "cherry",   "chess",   "chimney", "circle",  "cliff",    "cloak",
    "clock",   "cloud",   "clover",   "coast",   "cobbler", "coffee",  "compass",  "copper",
    "coral",   "corner",  "cotton",   "cradle",  "crane",   "crater",  "cricket",  "crown",
    "crystal", "curtain", "dagger",   "daisy",   "dancer",  "deer",    "desert",   "diamond",
    "dinner",  "dock",    "dolphin",  "door",    "dragon",  "drawer",  "drum",     "eagle",
    "earth",   "easel",   "echo",     "elbow",   "ember",   "engine",  "falcon",   "farmer",
    "feather", "fence",   "ferry",    "fiddle",  "field",   "finger",  "flame",    "flute",
    "forest",  "fossil",  "fountain", "fox",     "frost",   "galaxy",  "garden",   "garlic",
    "gate",    "ginger",  "glacier",  "glove",   "goose",   "grape",   "gravel",   "guitar",
    "hammer",  "harbor",  "harvest",  "hazel",   "helmet",  "heron",   "hill",     "honey",
    "horse",   "hotel",   "island",   "ivory",   "jacket",  "jar",     "jewel",    "journal",
    "jungle",  "kettle",  "kitchen",  "kite",    "ladder",  "lagoon",  "lake",     "lamp",
    "lantern", "leaf",    "lemon",    "letter",  "library", "lily",    "linen",    "lion",
    "lizard",  "locket",  "magnet",   "maple",   "marble",  "market",  "meadow",   "melon",
    "mirror",  "mitten",  "monkey",   "moon",    "moss",    "motor",   "mountain", "museum",
    "needle",  "nest",    "oak",      "oasis",   "ocean",   "olive",   "onion",    "orange",
    "orchard", "otter",   "oven",     "owl",     "paddle",  "palace",  "paper",    "parade",
    "parrot",  "pasture", "pearl",    "pebble",  "pencil",  "pepper",  "piano",    "picnic",
    "pigeon",  "pillow",  "pine",     "pirate",  "planet",  "plum",    "pocket",   "poet",
    "pond",    "poppy",   "prairie",  "pumpkin", "puzzle",  "quarry",  "quilt",    "rabbit",
    "raft",    "railway", "raven",    "ribbon",  "river",   "robin",   "rocket",   "saddle",
    "sailor",  "salmon",  "sandal",   "saucer",  "school",  "shadow",  "shelf",    "shell",
    "shovel",  "silver",  "singer",   "sparrow", "spoon",   "stable",  "station",  "stone",
    "storm",   "stove",   "street",   "summer",  "table",   "tailor",  "temple",   "thimble",
    "thunder", "ticket",  "tiger",    "timber",  "tower",   "tunnel",  "turtle",   "valley",
    "velvet",  "village", "violin",   "wagon",   "walnut",  "whistle", "willow",   "window",
});

constexpr auto kAdjectives = std::to_array<std::string_view>({
    "amber",   "ancient", "bitter",  "blue",    "bold",    "brave",  "brief",  "bright",  "broad",
    "brown",   "calm",    "careful", "cheap",   "clean",   "clever", "cold",   "crooked", "curious",
    "damp",    "dark",    "deep",    "dry",     "dusty",   "eager",  "early",  "empty",   "faint",
    "fair",    "famous",  "fancy",   "fast",    "fierce",  "fine",   "flat",   "formal",  "fresh",
    "gentle",  "giant",   "gloomy",  "golden",  "grand",   "green",  "grey",   "happy",   "harsh",
    "heavy",   "hidden",  "hollow",  "honest",  "huge",    "humble", "icy",    "idle",    "jolly",
    "keen",    "kind",    "large",   "late",    "lazy",    "light",  "little", "lively",  "lonely",
    "long",    "loud",    "loyal",   "lucky",   "mellow",  "merry",  "mighty", "mild",    "modern",
    "modest",  "muddy",   "narrow",  "neat",    "nervous", "noble",  "noisy",  "odd",     "pale",
    "patient", "plain",   "polite",  "poor",    "proud",   "pure",   "purple", "quick",   "quiet",
    "rapid",   "rare",    "red",     "rich",    "rough",   "round",  "royal",  "rusty",   "sad",
    "salty",   "scarlet", "secret",  "serious", "shallow", "sharp",  "shiny",  "short",   "shy",
    "silent",  "simple",  "sleepy",  "slow",    "small",   "smooth", "soft",   "solid",   "sour",
    "spare",   "steady",  "steep",   "stern",   "strange", "strong", "sturdy", "sudden",  "sunny",
    "sweet",   "swift",   "tall",    "tame",    "tender",  "thick",  "thin",   "tidy",    "tiny",
    "tired",   "vast",    "vivid",   "warm",    "weary",   "wet",    "white",  "wide",    "wild",
    "wise",    "wooden",  "yellow",  "young",
});

constexpr auto kVerbs = std::to_array<std::string_view>({
    "admires", "answers", "avoids",  "builds",  "buys",    "carries", "catches", "chases",
    "circles", "copies",  "counts",  "covers",  "crosses", "draws",   "drops",   "enjoys",
    "enters",  "faces",   "fears",   "finds",   "follows", "forgets", "gathers", "greets",
    "guards",  "guides",  "hears",   "helps",   "holds",   "hunts",   "ignores", "joins",
    "keeps",   "knows",   "leaves",  "lifts",   "likes",   "loses",   "loves",   "meets",
    "mends",   "misses",  "moves",   "needs",   "opens",   "paints",  "passes",  "praises",
    "pulls",   "pushes",  "reaches", "reads",   "repairs", "sells",   "shares",  "shows",
    "studies", "touches", "visits",  "watches",
});

constexpr auto kAdjectiveCount = static_cast<int64_t>(kAdjectives.size());
constexpr auto kNounCount = static_cast<int64_t>(kNouns.size());
constexpr auto kVerbCount = static_cast<int64_t>(kVerbs.size());

std::string_view noun(int64_t i) { return kNouns[static_cast<size_t>(i)]; }
std::string_view adjective(int64_t i) { return kAdjectives[static_cast<size_t>(i)]; }
std::string_view verb(int64_t i) { return kVerbs[static_cast<size_t>(i)]; }

}  // namespace

int64_t single_word_count() { return kNounCount + kAdjectiveCount + kVerbCount; }
int64_t word_count() { return single_word_count() + kAdjectiveCount * kNounCount; }

std::string word(int64_t index) {
  ASHLAR_CHECK(index >= 0 && index < word_count());
  if (index < kNounCount) return std::string(noun(index));
  index -= kNounCount;
  if (index < kAdjectiveCount) return std::string(adjective(index));
  index -= kAdjectiveCount;
  if (index < kVerbCount) return std::string(verb(index));
  index -= kVerbCount;
  return fmt::format("{}-{}", adjective(index / kNounCount), noun(index % kNounCount));
}

std::string random_pair(Draws& draws) {
  return word(draws.between(single_word_count(), word_count()));
}

std::string random_sentence(Draws& draws) {
  const auto part = [&] {
    return fmt::format("the {} {}", adjective(draws.below(kAdjectiveCount)),
                       noun(draws.below(kNounCount)));
  };
  std::string subject = part();
  subject[0] = 'T';
  const std::string_view does = verb(draws.below(kVerbCount));
  return fmt::format("{} {} {}.", subject, does, part());
}

}  // namespace ashlar
