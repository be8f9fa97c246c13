"""The words that the training tasks are made of."""


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Anna Ben Carl Dora Emil Fay Gus Hana Ivan Jane Kim Leo Mia Nora Omar Paul Quinn Rosa Sam Tina "
    "Uma Vera Will Xena Yara Zoe Adam Bella Cora Dan Eva Finn Grace Hugo Ida Jack"
)
CITIES = _words(
    "Paris Rome Oslo Lima Cairo Delhi Tokyo Berlin Madrid Vienna Dublin Quito Seoul Accra Prague Boston"
)
JOBS = _words("baker doctor farmer pilot teacher painter lawyer singer driver writer nurse chef")
ANIMALS = _words("fox bear cat dog owl hen mouse rabbit goat horse lion tiger wolf duck frog turtle")
PLACES = _words("forest city garden desert valley village castle harbor meadow cave")
FOODS = _words("apples pears plums figs nuts berries grapes carrots lemons onions beans cherries")
COLORS = _words("red blue green black white yellow brown purple orange pink")
THINGS = _words("book lamp chair clock coat drum kite map pen ring rope shoe spoon table tent wheel")
WORDS = sorted({*ANIMALS, *PLACES, *COLORS, *THINGS})
PARAMETERS = _words("x value number count size total")
FUNCTION_NAMES = _words("scale shift update convert change adjust compute apply")
CLASS_NAMES = _words("Dog Car Book Point Order Player Ticket Planet")
FIELDS = _words("name age size price color weight owner level")
