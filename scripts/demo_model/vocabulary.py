"""What the demo model knows by name: shapes, colours, characters, words, emoji."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "rectangle", "star", "heart", "diamond", "hexagon", "cross", "ring")

Rgb = tuple[int, int, int]

COLORS: dict[str, tuple[Rgb, Rgb]] = {
    "red": ((208, 0, 0), (255, 50, 62)),
    "green": ((0, 110, 0), (80, 255, 85)),
    "blue": ((0, 0, 160), (52, 110, 255)),
    "yellow": ((228, 200, 0), (255, 255, 80)),
    "orange": ((235, 112, 0), (255, 155, 40)),
    "purple": ((105, 0, 120), (150, 62, 190)),
    "pink": ((240, 110, 160), (255, 190, 215)),
    "brown": ((90, 42, 10), (165, 80, 42)),
    "black": ((0, 0, 0), (28, 28, 28)),
    "white": ((238, 238, 236), (255, 255, 255)),
    "gray": ((100, 100, 100), (160, 160, 160)),
    "teal": ((0, 120, 120), (40, 195, 195)),
}
"""Each colour is a box between two corners, so far from the others that a camera's brightness can't turn one into
another; of gray and of white all channels are one value, and teal has as much green as blue."""

ACHROMATIC = ("black", "white", "gray")
PURE: dict[str, Rgb] = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "brown": (165, 42, 42),
    "black": (0, 0, 0), "gray": (128, 128, 128), "teal": (0, 128, 128),
}  # fmt: skip
"""As web pages and drawing programs have them."""

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARACTERS = DIGITS + LETTERS

WORDS = tuple(
    """STOP GO YES NO HELLO EXIT OPEN CLOSED SALE CAT DOG BIRD FISH SUN MOON STAR TREE LOVE HOME WORK PLAY CAR BUS
    TAXI BIKE SHIP TRAIN PLANE COFFEE TEA MILK WATER BREAD CAKE APPLE LEMON SUGAR SALT HOT COLD NEW OLD BIG SMALL
    LEFT RIGHT UP DOWN IN OUT PUSH PULL START END MENU FREE HELP INFO NEWS BANK HOTEL PARK SHOP SCHOOL DOOR WAIT SLOW
    FAST DANGER FIRE SAFE RED BLUE GREEN BLACK WHITE GOLD KING QUEEN BOOK MUSIC MOVIE GAME TEAM GOAL WIN LOSE ROCK
    JAZZ POP HEART MAGIC DREAM HAPPY PARIS ROME LONDON TOKYO BERLIN MONDAY FRIDAY JUNE ONE TWO THREE FOUR FIVE SIX
    SEVEN EIGHT NINE TEN""".split()
)

_EMOJI_BY_CATEGORY = {
    "animal": """🐱cat 🐶dog 🐭mouse 🐹hamster 🐰rabbit 🦊fox 🐻bear 🐼panda 🐨koala 🐯tiger 🦁lion 🐮cow 🐷pig 🐸frog
        🐵monkey 🐔chicken 🐧penguin 🐦bird 🦆duck 🦅eagle 🦉owl 🦇bat 🐺wolf 🐴horse 🦄unicorn 🐝bee 🦋butterfly
        🐌snail 🐞ladybug 🐢turtle 🐍snake 🐙octopus 🦀crab 🐠fish 🐬dolphin 🐳whale 🦈shark 🐊crocodile 🐘elephant
        🐪camel 🦒giraffe 🐑sheep 🦌deer 🐓rooster 🦔hedgehog 🐿squirrel""",
    "food": """🍎apple 🍐pear 🍊orange 🍋lemon 🍌banana 🍉watermelon 🍇bunch_of_grapes 🍓strawberry 🍒pair_of_cherries
        🍑peach 🍍pineapple 🥝kiwi 🍅tomato 🥑avocado 🥦broccoli 🥕carrot 🌽corn_cob 🍞loaf_of_bread
        🧀piece_of_cheese 🥚egg 🍔burger 🍟box_of_fries 🍕slice_of_pizza 🌭hot_dog 🥪sandwich 🍦ice_cream 🍩donut
        🍪cookie 🎂birthday_cake 🍫chocolate_bar ☕cup_of_coffee 🍺glass_of_beer 🍷glass_of_wine""",
    "vehicle": """🚗car 🚕taxi 🚌bus 🚑ambulance 🚒fire_truck 🚜tractor 🚲bicycle 🏍motorcycle 🚂train ✈airplane
        🚀rocket 🚁helicopter ⛵sailboat 🚢ship""",
    "object": """⌚watch 📱phone 💻laptop 📷camera 📺television ☎telephone 💡light_bulb 🔑key 🔨hammer
        ✂pair_of_scissors ✏pencil 📚stack_of_books ✉envelope 🎁gift 🎈balloon ⚽soccer_ball 🏀basketball
        🎾tennis_ball 🎸guitar 🎹piano 🎺trumpet 🥁drum 👑crown 👓pair_of_glasses 👕shirt 👟shoe 🎩hat ☂umbrella
        🔔bell 🕯candle ⏰alarm_clock 🪑chair 🛏bed 🚪door 🏠house ⛺tent""",
    "plant": "🌲tree 🌴palm_tree 🌵cactus 🌻sunflower 🌹rose 🌷tulip 🍀four_leaf_clover 🍄mushroom",
    "thing in the sky": "☀sun 🌙moon ⭐yellow_star 🌈rainbow ☁cloud ⚡lightning_bolt",
    "face": "😀smiling_face 😢crying_face 😡angry_face 😴sleeping_face 😎face_with_sunglasses",
}


@dataclass(frozen=True, slots=True)
class Emoji:
    """One of the little pictures: its character, its name, and what kind of thing it shows."""

    character: str
    name: str
    category: str


def _parsed(category: str, written: str) -> Emoji:
    begins = next(at for at, character in enumerate(written) if character.isascii())
    return Emoji(written[:begins], written[begins:].replace("_", " "), category)


EMOJI = tuple(_parsed(category, each) for category, text in _EMOJI_BY_CATEGORY.items() for each in text.split())
EMOJI_NAMES = tuple(each.name for each in EMOJI)
EMOJI_CATEGORY = {each.name: each.category for each in EMOJI}

SHAPE_VARIANTS = 12
FIRST_EMOJI_SPRITE = len(SHAPES) * SHAPE_VARIANTS
FIRST_TEXT_SPRITE = FIRST_EMOJI_SPRITE + len(EMOJI)

# What a patch of a picture can show: nothing, a shape, one character, a text, an emoji.
FIRST_CHARACTER_KIND = 1 + len(SHAPES)
TEXT_KIND = FIRST_CHARACTER_KIND + len(CHARACTERS)
FIRST_EMOJI_KIND = TEXT_KIND + 1
PATCH_KINDS = FIRST_EMOJI_KIND + len(EMOJI)


def with_article(name: str) -> str:
    """The name with "a" or "an" before it."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def plural(name: str) -> str:
    """More than one of them."""
    return name + ("es" if name.endswith(("cross", "box")) else "s")
