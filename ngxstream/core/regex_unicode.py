r"""Unicode properties of the 256 code points a byte can be: what \p{…} means to PCRE2 on bytes.

Answers for the tables of PCRE2 10.42 (pcre2_ucd.c, pcre2_ucptables.c: Unicode 14).  Without UTF a
byte is the code point of its number, U+0000 to U+00FF, so most scripts are known and empty.
"""

import unicodedata
from typing import Final

from ngxstream.core import regex_chars


def _set(runs: str) -> int:
    """Make a set of bytes from runs in hexadecimal: "41-5a aa"."""
    mask = 0
    for run in runs.split():
        first, _, last = run.partition("-")
        mask |= regex_chars.span(int(first, 16), int(last or first, 16))
    return mask


def _where(function: object, value: str) -> int:
    """Make the set of the bytes of which unicodedata says this."""
    assert callable(function)
    return sum(1 << byte for byte in range(256) if function(chr(byte)).lower() == value)


_CATEGORIES: Final = (
    "cc cf cn co cs ll lm lo lt lu mc me mn nd nl no pc pd pe pf pi po ps sc sk sm so zl zp zs"
)
_BIDI: Final = "al an b bn cs en es et fsi l lre lri lro nsm on pdf pdi r rle rli rlo s ws"

# no character of these is below U+0100
_EMPTY_SCRIPTS: Final = """
    adlam adlm aghb ahom anatolianhieroglyphs arab arabic armenian armi armn avestan avst bali
    balinese bamu bamum bass bassavah batak batk beng bengali bhaiksuki bhks bopo bopomofo brah
    brahmi brai braille bugi buginese buhd buhid cakm canadianaboriginal cans cari carian
    caucasianalbanian chakma cham cher cherokee chorasmian chrs copt coptic cpmn cprt cuneiform
    cypriot cyprominoan cyrillic cyrl deseret deva devanagari diak divesakuru dogr dogra dsrt dupl
    duployan egyp egyptianhieroglyphs elba elbasan elym elymaic ethi ethiopic geor georgian glag
    glagolitic gong gonm goth gothic gran grantha greek grek gujarati gujr gunjalagondi gurmukhi
    guru han hang hangul hani hanifirohingya hano hanunoo hatr hatran hebr hebrew hira hiragana
    hluw hmng hmnp hung imperialaramaic inherited inscriptionalpahlavi inscriptionalparthian ital
    java javanese kaithi kali kana kannada katakana kayahli khar kharoshthi khitansmallscript
    khmer khmr khoj khojki khudawadi kits knda kthi lana lao laoo lepc lepcha limb limbu lina linb
    lineara linearb lisu lyci lycian lydi lydian mahajani mahj maka makasar malayalam mand mandaic
    mani manichaean marc marchen masaramgondi medefaidrin medf meeteimayek mend mendekikakui merc
    mero meroiticcursive meroitichieroglyphs miao mlym modi mong mongolian mro mroo mtei mult
    multani myanmar mymr nabataean nand nandinagari narb nbat newa newtailue nko nkoo nshu nushu
    nyiakengpuachuehmong ogam ogham olchiki olck oldhungarian olditalic oldnortharabian oldpermic
    oldpersian oldsogdian oldsoutharabian oldturkic olduyghur oriya orkh orya osage osge osma
    osmanya ougr pahawhhmong palm palmyrene pauc paucinhau perm phag phagspa phli phlp phnx
    phoenician plrd prti psalterpahlavi qaac qaai rejang rjng rohg runic runr samaritan samr sarb
    saur saurashtra sgnw sharada shavian shaw shrd sidd siddham signwriting sind sinh sinhala sogd
    sogdian sogo sora sorasompeng soyo soyombo sund sundanese sylo sylotinagri syrc syriac tagalog
    tagb tagbanwa taile taitham taiviet takr takri tale talu tamil taml tang tangsa tangut tavt
    telu telugu tfng tglg thaa thaana thai tibetan tibt tifinagh tirh tirhuta tnsa toto ugar
    ugaritic unknown vai vaii vith vithkuqi wancho wara warangciti wcho xpeo xsux yezi yezidi yi
    yiii zanabazarsquare zanb zinh zzzz
"""
_LATIN: Final = _set("41-5a 61-7a aa ba c0-d6 d8-f6 f8-ff")
_SCRIPTS: Final = {
    **dict.fromkeys(_EMPTY_SCRIPTS.split(), 0),
    **dict.fromkeys(("latin", "latn"), _LATIN),
    **dict.fromkeys(("common", "zyyy"), regex_chars.invert(_LATIN)),
}

_CLASSES: Final = {
    **{name: _where(unicodedata.category, name) for name in _CATEGORIES.split()},
    **{"bidi" + name: _where(unicodedata.bidirectional, name) for name in _BIDI.split()},
}
_LETTERS_WITH_CASE: Final = _CLASSES["ll"] | _CLASSES["lu"] | _CLASSES["lt"]
_GENERAL: Final = {
    first: sum({mask for name, mask in _CLASSES.items() if len(name) == 2 and name[0] == first})
    for first in "clmnpsz"
}
_SPACE: Final = _set("09-0d 20 85 a0")
_ALNUM: Final = _GENERAL["l"] | _GENERAL["n"]

_EMPTY_PROPERTIES: Final = """
    bidic bidicontrol dep deprecated ebase emod emojimodifier emojimodifierbase emojipresentation
    epres graphemeextend graphemelink grext grlink ideo ideographic idsb idsbinaryoperator idst
    idstrinaryoperator joinc joincontrol loe logicalorderexception nchar noncharactercodepoint pcm
    prependedconcatenationmark radical regionalindicator ri uideo unifiedideograph
    variationselector vs
"""
_PROPERTIES: Final = {
    **dict.fromkeys(_EMPTY_PROPERTIES.split(), 0),
    "ahex": _set("30-39 41-46 61-66"),
    "asciihexdigit": _set("30-39 41-46 61-66"),
    "hex": _set("30-39 41-46 61-66"),
    "hexdigit": _set("30-39 41-46 61-66"),
    "alpha": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "alphabetic": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "cased": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "ids": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "idstart": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "xids": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "xidstart": _set("41-5a 61-7a aa b5 ba c0-d6 d8-f6 f8-ff"),
    "ascii": _set("00-7f"),
    "bidim": _set("28-29 3c 3e 5b 5d 7b 7d ab bb"),
    "bidimirrored": _set("28-29 3c 3e 5b 5d 7b 7d ab bb"),
    "caseignorable": _set("27 2e 3a 5e 60 a8 ad af b4 b7-b8"),
    "ci": _set("27 2e 3a 5e 60 a8 ad af b4 b7-b8"),
    "changeswhencasefolded": _set("41-5a b5 c0-d6 d8-df"),
    "cwcf": _set("41-5a b5 c0-d6 d8-df"),
    "changeswhencasemapped": _set("41-5a 61-7a b5 c0-d6 d8-f6 f8-ff"),
    "cwcm": _set("41-5a 61-7a b5 c0-d6 d8-f6 f8-ff"),
    "changeswhenlowercased": _set("41-5a c0-d6 d8-de"),
    "cwl": _set("41-5a c0-d6 d8-de"),
    "upper": _set("41-5a c0-d6 d8-de"),
    "uppercase": _set("41-5a c0-d6 d8-de"),
    "changeswhentitlecased": _set("61-7a b5 df-f6 f8-ff"),
    "changeswhenuppercased": _set("61-7a b5 df-f6 f8-ff"),
    "cwt": _set("61-7a b5 df-f6 f8-ff"),
    "cwu": _set("61-7a b5 df-f6 f8-ff"),
    "dash": _set("2d"),
    "defaultignorablecodepoint": _set("ad"),
    "di": _set("ad"),
    "dia": _set("5e 60 a8 af b4 b7-b8"),
    "diacritic": _set("5e 60 a8 af b4 b7-b8"),
    "ecomp": _set("23 2a 30-39"),
    "emojicomponent": _set("23 2a 30-39"),
    "emoji": _set("23 2a 30-39 a9 ae"),
    "ext": _set("b7"),
    "extender": _set("b7"),
    "extendedpictographic": _set("a9 ae"),
    "extpict": _set("a9 ae"),
    "graphemebase": _set("20-7e a0-ac ae-ff"),
    "grbase": _set("20-7e a0-ac ae-ff"),
    "idc": _set("30-39 41-5a 5f 61-7a aa b5 b7 ba c0-d6 d8-f6 f8-ff"),
    "idcontinue": _set("30-39 41-5a 5f 61-7a aa b5 b7 ba c0-d6 d8-f6 f8-ff"),
    "xidc": _set("30-39 41-5a 5f 61-7a aa b5 b7 ba c0-d6 d8-f6 f8-ff"),
    "xidcontinue": _set("30-39 41-5a 5f 61-7a aa b5 b7 ba c0-d6 d8-f6 f8-ff"),
    "lower": _set("61-7a aa b5 ba df-f6 f8-ff"),
    "lowercase": _set("61-7a aa b5 ba df-f6 f8-ff"),
    "math": _set("2b 3c-3e 5e 7c 7e ac b1 d7 f7"),
    "patsyn": _set("21-2f 3a-40 5b-5e 60 7b-7e a1-a7 a9 ab-ac ae b0-b1 b6 bb bf d7 f7"),
    "patternsyntax": _set("21-2f 3a-40 5b-5e 60 7b-7e a1-a7 a9 ab-ac ae b0-b1 b6 bb bf d7 f7"),
    "patternwhitespace": _set("09-0d 20 85"),
    "patws": _set("09-0d 20 85"),
    "qmark": _set("22 27 ab bb"),
    "quotationmark": _set("22 27 ab bb"),
    "sd": _set("69-6a"),
    "softdotted": _set("69-6a"),
    "sentenceterminal": _set("21 2e 3f"),
    "sterm": _set("21 2e 3f"),
    "space": _set("09-0d 20 85 a0"),
    "whitespace": _set("09-0d 20 85 a0"),
    "wspace": _set("09-0d 20 85 a0"),
    "term": _set("21 2c 2e 3a-3b 3f"),
    "terminalpunctuation": _set("21 2c 2e 3a-3b 3f"),
    "any": regex_chars.EVERY,
    "l&": _LETTERS_WITH_CASE,
    "lc": _LETTERS_WITH_CASE,
    "xan": _ALNUM,
    "xps": _SPACE,
    "xsp": _SPACE,
    "xuc": _set("24 40 60 a0-ff"),
    "xwd": _ALNUM | 1 << 0x5F,
}
_ALL: Final = _SCRIPTS | _CLASSES | _GENERAL | _PROPERTIES

SPACES: Final = "_- \t\n\v\f\r"  # what does not count in a name


def find(name: str) -> int | None:
    """Find the bytes that have a property; None if PCRE2 knows none of this name.

    Args: name: In lower case, without SPACES; "class:value" and "class=value" too.
    Returns: A set of bytes as regex_chars has them.
    Source: pcre2_compile.c:get_ucp().
    """
    at = min((name.find(sign) for sign in ":=" if sign in name), default=-1)
    if at < 0:
        return _ALL.get(name)
    kind, value = name[:at], name[at + 1 :]
    if kind in ("bidiclass", "bc"):
        return _ALL.get("bidi" + value)
    if kind in ("script", "sc", "scriptextensions", "scx"):
        return _SCRIPTS.get(value)
    return None
