"""The English that `steps` knows: word lists of the rules in `clauses` and `rewording`."""

from __future__ import annotations

from ptdpo_cli.mathtext import UNITS as UNIT_TABLE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERBS = _words("""
    add apply arrange average calculate check choose combine compare complete compute connect consider construct
    convert count cross-multiply decide deduct determine differentiate divide draw drop estimate evaluate examine
    expand express extend factor find follow form group identify integrate isolate join label list locate look mark
    match measure multiply name observe plug point rearrange recall read recognize reflect remember rewrite rotate
    round scan select set show simplify solve sort split square start subtract substitute sum switch take trace track
    translate try turn use verify view work write
""")
# Nouns as often as verbs, "Point A lies …": an instruction only where a determiner follows.
NOUNS_TOO = _words("""
    point square work sum average mark name form group list match measure label factor set round view turn drop show
    start join sort split trace track switch estimate try
""")
DETERMINERS = (
    "the ", "both ", "these ", "those ", "all ", "each ", "up ", "out ", "with ", "at ", "from ", "them", "it ", "a ",
    "an ", "every ", "that ", "off ", "down ",
)
# What a noun phrase cannot end with.
FUNCTION_WORDS = _words("""
    of for by at in to with the a an from than and or on per is are was were be that if when its their his her as it he
    she they
""")
# Words that have a capital only because a sentence begins with them.
COMMON = _words("""
    the a an each every this that these those its their his her he she they we it there total area perimeter volume
    length width height angle angles triangle side sides radius diameter circumference distance speed time cost price
    profit sum difference product average mean median mode range number percentage ratio base slope value values sales
    population exterior interior remaining another all both shaded surface hypotenuse arc one two three four five six
    seven eight nine ten half mass energy force voltage current resistance pressure car revenue costs expenses exports
    imports income production votes water men women boys girls children people students adults teachers workers houses
    books diagonals lines points circles squares triangles vertical horizontal opposite adjacent corresponding alternate
""")
# In formulas these are no names of quantities.
NO_QUANTITY = _words("""
    π sin cos tan log ln sqrt and the of cm km mm degrees units inches feet meters metres square hours minutes dollars
    cents grams
""")
# One of these as the first word may be the beginning of a phrase that only joins sentences.
JOINING = _words("""
    so therefore thus hence then next now finally first firstly second secondly third thirdly lastly and but also
    similarly likewise again moreover furthermore consequently accordingly clearly obviously in that i.e. as overall
    altogether afterward afterwards after subsequently however meanwhile to we you one note notice observe see know
    conclude deduce infer it this which can
""")

# ---- parts of patterns -----------------------------------------------------------------------------------------------

METHODS = (
    r"theorem|law|rule|formulas?|propert(?:y|ies)|definition|identit(?:y|ies)|criterion|similarity|congruence|symmetry"
    r"|pythagor\w*|sss|sas|asa|aas|hl|aa|equations?|axiom|postulate|inequality|ratios?|proportions?|proportionality"
    r"|vieta\w*|sines?|cosines?|tangents?|trigonometry|relation(?:ship)?|principle|method|sum of|difference of|area of"
    r"|(?:interior|exterior|vertical|corresponding|opposite|inscribed) angles|test|factorization|substitution"
    r"|elimination|pattern|scale|legend|slope|average|mean"
)
PICTURES = (
    "figure|picture|image|graph|chart|diagram|table|map|plot|drawing|legend|histogram|timetable|menu|grid"
)
# What is read off a picture rather than worked out.
READABLE = (
    r"bars?|columns?|slices?|segments?|sectors?|lines?|curve|points?|label|scale|axis|values?|costs|expenses|profits?"
    r"|exports|imports|income|production|rainfall|votes|entry|cells?|rows?|legend|percentage|share|reading|population"
    r"|sales|revenue|scores?|temperature|needle|pointer|clock|dial|price|height of the bar|thermometer|gauge|ruler"
    r"|number (?:on|at|in|shown)|digit|dot|hand|coordinates?"
)
# Words of statements that a solution starts from, rather than of what it finds.
RELATIONS = (
    r"parallel|perpendicular|congruent|similar|equal|tangent|bisects?|bisector|midpoint|isosceles|equilateral"
    r"|right (?:angle|triangle)|right-angled|same|supplementary|complementary|diameter|radius|radii|chord|vertical"
    r"|corresponding|alternate|inscribed|central|opposite|adjacent|trapezoid|rhombus|square|parallelogram|rectangle"
    r"|regular|symmetric|median|altitude|hypotenuse|collinear|midline|midsegment|proportional|cyclic|exterior|interior"
    r"|intersects?|common|shared?s?|vertex|center|centre|directly|inversely|constant|conserved|series|balanced"
    r"|doubles?|halves|twice|half"
)
_LETTERS = frozenset("mglshNJWVA")        # of the units of one letter, those that hints write behind numbers
_NAMES = sorted(
    (
        name for name, unit in UNIT_TABLE.items()
        if name.isalpha() and (len(name) > 1 or name in _LETTERS) and name != "in"
        and not unit.dimension.startswith("count")
    ),
    key=len, reverse=True,
)
UNITS = (
    rf"°[CF]?|%|(?:square |cubic )?(?:units?|{'|'.join(_NAMES)})[²³]?|million|billion|thousand|km/h|m/s|ω"
    r"|people|students?|points?"
)

# ---- language --------------------------------------------------------------------------------------------------------

ENGLISH = _words("""
    the of and is are in to we so since by for that have has it each at on with then from this be as which find makes
    there equals therefore total add because if both using get
""")
OTHER_LANGUAGES = _words("""
    el la los las de del que es un una por para con se como der die das und ist ein eine mit wir von den im le les des
    est une dans pour et donc il di che della sono os da em não uma dos são jest na het een
""")
