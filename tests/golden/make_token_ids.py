#!/usr/bin/env python3
"""Ask Hugging Face tokenizers how the Pythia tokenizer cuts hard strings: token_ids.json.

    make_token_ids.py                 write token_ids.json next to this file

Each case has the text, its ids, its NFC form, and what the ids decode to (special tokens kept). The very long ones are
given as a unit, a count and the SHA-256 of the ids as little-endian int32. Random strings come from splitmix64 with the
seed below. Needs tokenizers; its version is recorded.
"""
import hashlib
import itertools
import json
import os
import platform
import struct
import unicodedata

import tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "..", "data", "gpt-neox-tokenizer.json")
SEED = 2023
LONG = [("letter a", "a", 100000), ("space", " ", 100000), ("ab", "ab", 50000), ("newline", "\n", 100000),
        ("emoji", "\U0001F600", 20000)]


def splitmix(seed):
    """Endless numbers of 64 bits."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        x = state
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        yield x ^ (x >> 31)


# ---- written by hand -----------------------------------------------------------------------------------------------

PLAIN = {
    "empty": "",
    "one letter": "a",
    "sentence": "The quick brown fox jumps over the lazy dog.",
    "two sentences": "Hello, world! How are you today?  I'm fine.",
    "no space after punctuation": "one,two;three:four.five!six?seven",
    "leading space": " hello",
    "trailing space": "hello ",
    "both": " hello ",
    "camel and snake": "getHTTPResponseCode get_http_response_code GET-HTTP-RESPONSE-CODE",
    "hyphens and dashes": "well-known \u2013 en \u2014 em \u2015 bar \u2212 minus \u00ad soft",
    "quotes": "\u201cquoted\u201d \u2018single\u2019 \u00abfrench\u00bb \"plain\" 'plain'",
    "ellipsis": "wait... wait\u2026 ....... .. .",
    "ordinals": "1st 2nd 3rd 4th 21st",
    "mixed letters and digits": "a1b2c3 4d5e6f x86_64 utf8 2024-01-31T23:59:59Z",
    "numbers": "0 1 12 123 1234 12345 1,234,567.89 -1 +1 1e-10 0x1F 0b101 3.14159",
    "money": "$1,000.00 \u20ac99 \u00a35 \u00a5100 \u20b9500 \u20bf0.001",
    "math": "\u2200x\u2208\u211d: x\u00b2\u22650 \u21d2 \u221ax \u2264 \u221e \u222b\u2202x \u2260 \u2205",
    "every ascii": "".join(chr(c) for c in range(128)),
    "every latin-1": "".join(chr(c) for c in range(0x80, 0x100)),
    "every latin extended a": "".join(chr(c) for c in range(0x100, 0x180)),
    "no letters": "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "punctuation after space": " ! @ # $ % ^ & * ( ) _ + - =",
    "punctuation runs": "!!!!! ????? ----- ===== ##### ***** _____ /////",
    "separator lines": "----------------\n================\n****************\n",
}

CONTRACTIONS = {
    "lower": "I'm you're he's she'd we'll they've isn't",
    "upper": "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE ISN'T",
    "mixed": "I'm yOU'Re HE's She'D we'Ll they'vE isN't",
    "curly": "I\u2019m you\u2019re he\u2019s she\u2019d we\u2019ll they\u2019ve isn\u2019t",
    "alone": "'s 't 're 've 'm 'll 'd",
    "glued": "'sa 'tb 'rec 'ved 'me 'llf 'dg",
    "partial": "'r 'v 'l 'x ' '' '''s",
    "after digits": "1990's 80's 5'll",
    "after newline": "\n's\n't \n 're",
    "doubled": "he's's can't've y'all'd've",
    "after space": "a 's b 'll c 've",
    "with combining mark": "he's\u0301 we'll\u0301",
}

COMBINING = {
    "angstrom sign": "\u212b \u00c5 A\u030a",
    "long s with dot, below": "\u1e9b\u0323",
    "long s with dot, below, decomposed": "\u017f\u0323\u0307",
    "d dot above dot below": "d\u0307\u0323 d\u0323\u0307 \u1e0b\u0323 \u1e0d\u0307",
    "ohm kelvin": "\u2126 \u212a",
    "greek oxia tonos": "\u1f71 \u03ac \u03b1\u0301 \u1fd3 \u0390",
    "composition exclusion devanagari": "\u0958 \u0915\u093c \u0959 \u095f",
    "composition exclusion hebrew": "\ufb2a \u05e9\u05c1 \ufb1d \ufb4e",
    "composition exclusion tibetan": "\u0f43 \u0f42\u0fb7 \u0f73 \u0f75 \u0f81",
    "composition exclusion bengali": "\u09dc \u09a1\u09bc \u09df",
    "composition exclusion gurmukhi": "\u0a33 \u0a36 \u0a59",
    "composition exclusion forking": "\u2adc \u2add\u0338",
    "musical symbols": "\U0001d15e \U0001d157\U0001d165 \U0001d1bb\U0001d16f",
    "singletons": "\u2000 \u2001 \u2329 \u232a \u0340 \u0341 \u0343 \u0344 \u0374 \u037e \u0387",
    "cjk compatibility": "\uf900 \uf967 \ufa10 \ufa12 \ufa6c \U0002f800 \U0002fa1d",
    "ligatures stay": "\ufb00 \ufb01 \ufb03 \u0132 \u01c4",
    "half and full width stay": "\uff21\uff42\uff13 \uff76\uff9e \uffe5",
    "vietnamese composed": "Ti\u1ebfng Vi\u1ec7t \u1ed5n \u0111\u1ecbnh",
    "vietnamese decomposed": "Tie\u0302\u0301ng Vie\u0323\u0302t o\u0302\u0309n",
    "vietnamese half": "Ti\u00ea\u0301ng Vi\u1eb9\u0302t",
    "mark at start": "\u0301abc",
    "mark after space": " \u0301 \u0300",
    "mark after newline": "\n\u0301\n",
    "mark on digit": "1\u0301 2\u20e3",
    "many marks": "Z" + "\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324" * 3 + "algo",
    "thirty acutes": "e" + "\u0301" * 30,
    "forty marks of falling class": "q" + "\u0301\u0323\u0327\u0334" * 10,
    "class zero blocks": "a\u034f\u0301 a\u200d\u0301 a\u0315\u0300\u05ae\u0300b",
    "enclosing": "a\u20dd b\u20de 5\ufe0f\u20e3 #\ufe0f\u20e3",
    "kana voiced": "\u304b\u3099 \u304c \u30cf\u309a \u30d1 \u309b \u309c",
    "kana marks twice": "\u304b\u3099\u3099",
    "balinese": "\u1b05\u1b35 \u1b06 \u1b3e\u1b35",
    "kaithi and grantha": "\U00011099\U000110ba \U00011347\U0001133e \U000114b9\U000114ba",
    "sinhala and others": "\u0dd9\u0dcf\u0dca \u0dd9\u0dca \u0cc6\u0cc2\u0cd5 \u0bc6\u0bd7 \u0d46\u0d57",
    "iota subscript orders": "\u03b1\u0345\u0301\u0313 \u03b1\u0313\u0301\u0345 \u1f84 \u1fb3\u0313",
    "quick check maybe": "a\u0300\u0301 \u00e0\u0301 e\u0327\u0301 \u0229\u0301 u\u0308\u0304 \u00fc\u0304 \u01d6",
    "not equal": "=\u0338 \u2260 <\u0338 >\u0338 \u2203\u0338",
    "arabic marks": "\u0627\u0653 \u0622 \u0628\u0651\u064e \u0628\u064e\u0651 \u06d2\u0654",
    "tibetan vowels": "\u0f40\u0f71\u0f72 \u0f40\u0f72\u0f71 \u0f40\u0f74\u0f71",
    "myanmar": "\u1025\u102e \u1026",
    "unicode 14 to 16": "\U000105d2\u0307 \U000105c9 \U00011382\U000113c9 \U0001611e\U0001611e \u0cc6\u0cc2",
    "marks of unicode 15 and 16": "a\U0001e08f\u0323 a\u0897\u0323 a\u0ecd\u0ec8\u0323 a\U00010efd\u0323",
}

HANGUL = {
    "syllables": "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "jamo L V": "\u1100\u1161",
    "jamo L V T": "\u1112\u1161\u11ab",
    "LV and T": "\uac00\u11a8 \uac00\u11c2",
    "LV and T base (not a T)": "\uac00\u11a7",
    "LVT and T": "\uac01\u11a8",
    "L alone": "\u1100 \u1100\u1100",
    "V alone": "\u1161 \u1161\u1161",
    "T alone": "\u11a8 a\u11a8",
    "old jamo": "\u1113\u1161 \u1100\u1176 \u1100\u1161\u11c3 \ua960\u1161 \u1100\ud7b0",
    "compatibility jamo": "\u3131\u314f\u3134",
    "filler": "\u115f\u1161 \u1100\u1160",
    "last syllable": "\ud7a3 \u1112\u1175\u11c2",
    "L mark V": "\u1100\u0301\u1161",
    "half width": "\uffa1\uffc2",
}

SCRIPTS = {
    "chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\u3002",
    "chinese traditional": "\u6b61\u8fce\u4f7f\u7528\u7e41\u9ad4\u4e2d\u6587\uff01",
    "chinese with latin": "\u4f7f\u7528Python3\u7f16\u7a0b 100\u6b21",
    "japanese": "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\uff01\u30ab\u30bf\u30ab\u30ca\u30fc",
    "ideographic space": "\u5168\u89d2\u3000\u30b9\u30da\u30fc\u30b9\u3000\u3000end",
    "rare ideographs": "\U00020000\U0002a6d6\U0002b740 \U00030000 \u9fff",
    "arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641\u061f",
    "arabic vowelled": "\u0628\u0650\u0633\u0652\u0645\u0650 \u0671\u0644\u0644\u0651\u064e\u0647\u0650",
    "arabic presentation": "\ufefb \ufdf2 \ufdfa \ufe8d",
    "hebrew": "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "hebrew pointed": "\u05d1\u05bc\u05b0\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea",
    "hebrew points reordered": "\u05d1\u05b0\u05bc\u05e8\u05b5\u05d0\u05e9\u05c1\u05b4\u05d9\u05ea",
    "devanagari": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968\u0969",
    "bengali": "\u09a8\u09ae\u09b8\u09cd\u0995\u09be\u09b0 \u09ac\u09bf\u09b6\u09cd\u09ac",
    "tamil": "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0b89\u0bb2\u0b95\u0bae\u0bcd",
    "telugu": "\u0c28\u0c2e\u0c38\u0c4d\u0c15\u0c3e\u0c30\u0c02",
    "kannada": "\u0ca8\u0cae\u0cb8\u0ccd\u0c95\u0cbe\u0cb0 \u0cca \u0cc6\u0cc2",
    "malayalam": "\u0d28\u0d2e\u0d38\u0d4d\u0d15\u0d3e\u0d30\u0d02 \u0d4a \u0d46\u0d3e",
    "thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u0e51\u0e52\u0e53",
    "lao": "\u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5",
    "tibetan": "\u0f56\u0f40\u0fb2\u0f0b\u0f64\u0f72\u0f66\u0f0b",
    "khmer": "\u179f\u17bd\u179f\u17d2\u178f\u17b8",
    "myanmar": "\u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b",
    "georgian": "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1c92\u1c90",
    "armenian": "\u0532\u0561\u0580\u0587 \u0541\u0565\u0566",
    "amharic": "\u1230\u120b\u121d \u12d3\u1208\u121d \u1369\u136a",
    "cherokee": "\u13a3\u13cf\u13f2 \uab70",
    "greek": "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5\u037e",
    "greek polytonic": "\u1f10\u03bd \u1f00\u03c1\u03c7\u1fc7 \u1f26\u03bd \u1f41 \u03bb\u03cc\u03b3\u03bf\u03c2",
    "russian": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u0415\u0308",
    "ukrainian": "\u0457\u0436\u0430\u043a \u0456\u0308 \u0439 \u0438\u0306",
    "turkish": "\u0130stanbul I\u0307 \u0131\u015f\u0131k \u011f",
    "german": "Stra\u00dfe \u1e9e gr\u00f6\u00dfer u\u0308ber",
    "french": "\u00e0 l'\u00e9t\u00e9, o\u00f9 \u00eates-vous\u202f?\u00a0! \u0153uvre",
    "polish": "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "spanish": "\u00bfQu\u00e9 tal, se\u00f1or? \u00a1Ma\u00f1ana!",
    "icelandic": "\u00dea\u00f0 er \u00e6\u00f0islegt",
    "ogham and runes": "\u169b\u1692\u1680\u1693 \u16a0\u16a2\u16a6 \u16ee\u16f0",
    "linear b and cuneiform": "\U00010000\U00010001 \U00012000\U00012400",
    "gothic": "\U00010330\U00010331\U0001034a",
    "deseret": "\U00010400\U00010428",
    "adlam": "\U0001e900\U0001e922\U0001e943",
    "n'ko": "\u07d2\u07de\u07cf \u07c1\u07c2",
    "mongolian": "\u182e\u1823\u1829 \u180e\u180b",
    "yi and vai": "\ua000\ua001 \ua500\ua620",
    "letters lm": "\u02b0\u02b2 \u02c6 \u02d0 \u3005 \u309d \u30fc \u02ee \u1d2c \u2071 \uff70 \u0640 \u0e46",
    "letters lo": "\u00aa \u00ba \u01bb \u01c0\u01c1 \u0294 \u05d0 \u2135 \u3006 \u303c",
    "letters lt": "\u01c5 \u01c8 \u01cb \u01f2 \u1f88 \u1ffc",
    "modifier symbols (not letters)": "\u02c2 \u02d2 \u02e5 \u02ed ^ ` \u00a8 \u00af \u00b4 \u00b8",
    "math alphanumerics": "\U0001d400\U0001d41a \U0001d49c\U0001d4b6 \U0001d504 \U0001d538 \U0001d7ce\U0001d7d8",
    "math letterlike": "\u212c \u2130 \u210b \u2115 \u211a \u2102 \u2124 \u2145 \u2148",
    "letters of unicode 15 and 16": "a\u1c89b \ua7cb\ua7da \U000105c0\U000105c1 \U00031350 \U0002ebf0 !\U0001e4d0",
    "mixed scripts in a word": "a\u0431\u03b3\u05d3\u0639\u4e2d\u3042\uac00",
    "right-to-left controls": "\u200fabc\u202eabc\u202c \u2066\u05d0\u2069 \u061c",
}

NUMBERS = {
    "roman": "\u2160\u2161\u2162 \u217b \u2180\u2181 \u2188 \u2183\u2184",
    "superscripts": "x\u00b2 y\u00b3 z\u00b9 \u2070\u2074\u2079 \u2080\u2089 x\u207b\u00b9",
    "fractions": "\u00bd \u00bc\u00be \u2153 \u215e 3\u00bd \u2189 \u215f",
    "circled": "\u2460\u2473 \u24f5 \u2776 \u3251 \u32b1",
    "parenthesised": "\u2474\u2487 \u2488\u249b \u3220",
    "arabic-indic": "\u0660\u0661\u0669 \u06f0\u06f9",
    "indic": "\u0966\u096f \u09e6\u09ef \u0a66 \u0ae6 \u0b66 \u0be6\u0bf0 \u0c66 \u0ce6 \u0d66",
    "bengali currency": "\u09f4\u09f9 \u0b72 \u0d70",
    "thai tibetan myanmar": "\u0e50\u0e59 \u0f20\u0f33 \u1040\u1049",
    "ethiopic khmer mongolian": "\u1369\u137c \u17e0\u17f0 \u1810",
    "full width": "\uff10\uff11\uff19 \uff11\uff12\uff13abc",
    "hangzhou and ideographic": "\u3007\u3021\u3029\u3038 \u4e00\u4e8c\u4e09 \u3192\u3195",
    "counting rods": "\U0001d360\U0001d371 \U00010107 \U00010140",
    "digits of unicode 15 and 16": "1\U00011f50 \U00010d40\U00011bf0 a\U000116d0 \U0001ccf0",
    "segmented": "\U0001fbf0\U0001fbf9",
    "digits and letters": "1a\u00b2b\u2160c\u0663d",
    "digits and marks": "1\u0301 \u0661\u0653",
    "long": "123456789" * 20,
    "spaced": " 1  2   3    4",
    "superscript after letter": "m\u00b2 km\u00b3 H\u2082O CO\u2082",
}

EMOJI = {
    "faces": "\U0001f600\U0001f602\U0001f62d \U0001f60d",
    "with text": "Great \U0001f44d job\U0001f389!",
    "skin tones": "\U0001f44b\U0001f3fb\U0001f44b\U0001f3ff \U0001f9d1\U0001f3fd",
    "zwj family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "zwj profession": "\U0001f469\U0001f3fe\u200d\U0001f4bb \U0001f9d1\u200d\U0001f680",
    "rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308",
    "flags": "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5 \U0001f1fa\U0001f1f8",
    "tag flag": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "keycaps": "1\ufe0f\u20e3 *\ufe0f\u20e3",
    "text and emoji style": "\u2764\ufe0e \u2764\ufe0f \u263a \u263a\ufe0f",
    "hearts on fire": "\u2764\ufe0f\u200d\U0001f525",
    "new ones": "\U0001fae0 \U0001fae8 \U0001fa77",
    "zwj alone": "\u200d a\u200db \u200d\u200d",
    "run": "\U0001f600" * 25,
    "dingbats and arrows": "\u2713 \u2717 \u2192 \u27a1\ufe0f \u25b6 \u2605 \u2591\u2592\u2588 \u2500\u2502\u250c",
    "braille": "\u2800\u28ff\u2813\u2811",
}

SPECIAL = {
    "endoftext inside": "a<|endoftext|>b",
    "endoftext alone": "<|endoftext|>",
    "endoftext twice": "<|endoftext|><|endoftext|>",
    "endoftext with spaces": "a <|endoftext|> b",
    "endoftext with runs of spaces": "a   <|endoftext|>   b",
    "endoftext with newlines": "a\n<|endoftext|>\nb",
    "padding": "<|padding|>",
    "padding inside": "x<|padding|>y<|endoftext|>z",
    "partial start": "<|endof",
    "partial end": "endoftext|>",
    "nested": "<|endof<|endoftext|>text|>",
    "overlapping": "<|endoftext|endoftext|>",
    "wrong case": "<|EndOfText|> <|ENDOFTEXT|>",
    "spaced out": "<| endoftext |>",
    "then combining mark": "<|endoftext|>\u0301",
    "mark before": "a\u0301<|endoftext|>a\u0301",
    "then a mark that would compose": "a<|endoftext|>\u0338b >\u0338",
    "mark within": "<|endoftext\u0301|>",
    "not ours": "<|im_start|>user<|im_end|> <s></s> [CLS] <pad> <unk>",
    "after hangul L": "\u1100<|endoftext|>\u1161",
    "near full width": "\uff1c|endoftext|\uff1e",
    "in a contraction": "I'<|endoftext|>m",
    "bytes of the alphabet": "\u0120hello \u010aworld \u0100\u0143",
}

CODE = {
    "python": "def f(x):\n    if x > 0:\n        return [i ** 2 for i in range(x)]\n    return None\n",
    "python tabs": "class A:\n\tdef __init__(self):\n\t\tself.x = 'a'\n\n\n\tpass\n",
    "c": "#include <stdio.h>\nint main(void)\n{\n        printf(\"%d\\n\", 1 << 4);\n        return 0;\n}\n",
    "cpp": "template <typename T>\nauto f(T&& t) -> decltype(auto) { return std::forward<T>(t); }\n",
    "javascript": "const f = async (x) => { await fetch(`/api/${x}`); }; // todo\n",
    "rust": "fn main() -> Result<(), Box<dyn Error>> {\n    println!(\"{:?}\", x?);\n    Ok(())\n}\n",
    "go": "func (s *Server) Run() error {\n\tif err := s.x(); err != nil {\n\t\treturn err\n\t}\n}\n",
    "java": "public static void main(String[] args) { System.out.println(\"hi\"); }",
    "haskell": "main :: IO ()\nmain = mapM_ print $ filter even [1..10] >>= \\x -> [x,x]\n",
    "lisp": "(defun fact (n)\n  (if (<= n 1)\n      1\n      (* n (fact (- n 1)))))\n",
    "sql": "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 'y' GROUP BY 1 HAVING COUNT(*) > 2;",
    "html": "<!DOCTYPE html>\n<html>\n  <body class=\"a b\">&nbsp;&lt;p&gt;<br/></body>\n</html>",
    "css": ".a > .b::before { content: \"\\201C\"; margin: 0 -1px; }",
    "shell": "for f in *.txt; do\n  cat \"$f\" | grep -v '^#' >> out 2>&1\ndone\n",
    "regex": "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+)@\\S+\\.\\w{2,}$",
    "latex": "\\begin{equation}\n  \\frac{\\partial u}{\\partial t} = \\alpha \\nabla^2 u\n\\end{equation}",
    "makefile": "all: a.o b.o\n\t$(CC) -o $@ $^\n\n.PHONY: all\n",
    "yaml": "a:\n  - b: 1\n    c: [x, y]\n  - d: |\n      text\n",
    "json": "{\"a\": [1, 2.5, -3e10, true, null], \"b\": {\"c\": \"\\u00e9\\n\"}}",
    "json compact": "{\"a\":[{\"b\":[[],{}]}],\"c\":\"\\\\\\\"\"}",
    "xml": "<?xml version=\"1.0\"?><a b='c'><![CDATA[ <x> ]]></a>",
    "diff": "--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@\n a\n-b\n+c\n",
    "assembly": "  mov   rax, [rbp-0x8]   ; load\n\tjmp\t.L2\n",
    "brainfuck": "++++++++[>++++[>++>+++>+++>+<<<<-]>+>+>->>+[<]<-]>>.",
    "markdown": "# T\n\n* a\n    * b\n\n```c\nx\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "csv": "id,name,\"a, b\"\r\n1,x,\"y \"\"z\"\"\"\r\n",
    "url": "https://user:pw@example.com:8080/a/b%20c?x=1&y=%C3%A9#frag",
    "urls": "see http://example.org/~x/, www.example.net and mailto:a.b+c@example.com.",
    "paths": "/usr/local/lib/x.so.1 C:\\Windows\\System32\\x.dll ../../a ~/b",
    "base64": "SGVsbG8sIHdvcmxkISBUaGlzIGlzIGEgYmFzZTY0IHN0cmluZy4gMDEyMzQ1Njc4OQ==",
    "hex dump": "00000000  7f 45 4c 46 02 01 01 00  00 00 00 00 00 00 00 00  |.ELF............|",
    "uuid and hashes": "123e4567-e89b-12d3-a456-426614174000 da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "log line": "2024-05-06 07:08:09,123 [main] WARN  c.e.Foo - took 12ms (ok=true)\n",
    "ansi": "\u001b[1;31mred\u001b[0m",
}

WHITE = {
    "tabs": "\t \t\t \t\t\t a\tb\t\tc",
    "newlines": "\n \n\n \n\n\n a\nb\n\nc\n\n\nd",
    "crlf": "a\r\nb\r\n\r\nc\r\n",
    "cr": "a\rb\r\rc\r",
    "lf cr": "a\n\rb\n\r",
    "spaces before newline": "a  \n  b   \n   c",
    "spaces and tabs": "a \t b\t \tc  \t  d",
    "trailing newline and spaces": "a\n   ",
    "leading newline and spaces": "   \n   a",
    "vertical tab, form feed": "a\x0bb\x0cc \x0b \x0c",
    "separators 1c-1f": "a\x1cb\x1dc\x1ed\x1fe \x1c \x1d",
    "next line": "a\u0085b \u0085 \u0085\u0085c",
    "no-break": "a\u00a0b \u00a0 c\u00a0\u00a0d \u00a0e",
    "narrow no-break": "a\u202fb \u202f c",
    "line and paragraph separator": "a\u2028b\u2029c \u2028 \u2029\u2029d",
    "en to hair spaces": "a\u2002b\u2003c\u2004d\u2005e\u2006f\u2007g\u2008h\u2009i\u200aj",
    "en quad em quad (change in nfc)": "a\u2000b\u2001c",
    "medium mathematical": "a\u205fb \u205f",
    "ogham space": "a\u1680b \u1680",
    "ideographic": "a\u3000b \u3000 \u3000\u3000",
    "zero width (not space)": "a\u200bb \u200b c\u200b\u200b",
    "bom": "\ufeffa\ufeffb \ufeff",
    "word joiner": "a\u2060b \u2060",
    "mongolian vowel separator": "a\u180eb \u180e",
    "only a space": " ",
    "only a newline": "\n",
    "only a tab": "\t",
    "only crlf": "\r\n",
    "only no-break": "\u00a0",
    "only ideographic": "\u3000",
    "space then no-break then word": " \u00a0word",
    "spaces then no-break": "a    \u00a0    b",
    "two spaces and newline and word": "  \nword",
    "twenty-five newlines": "\n" * 25,
    "newline ladder": "a\n b\n  c\n   d\n    e\n     f\n",
    "runs split by words": "a  b   c    d     e      f       g",
    "spaces then punctuation": "a   !   ?   .",
    "spaces then digits": "a   1   22   333",
    "spaces then mark": "a   \u0301b",
    "spaces then cjk": "a   \u4e2d   \u6587",
}

CONTROL = {
    "nul": "\0",
    "nul inside": "a\0b\0\0c",
    "c0": "".join(chr(c) for c in range(0x20)),
    "c0 spaced": " ".join(chr(c) for c in range(0x20)),
    "delete": "a\x7fb \x7f",
    "c1": "".join(chr(c) for c in range(0x80, 0xa0)),
    "c1 spaced": " ".join(chr(c) for c in range(0x80, 0xa0)),
    "private use": "\ue000 \uf8ff a\ue123b \U000f0000 \U0010fffd",
    "unassigned": "\u0378 \u0380 \u2fe0 \U0001fff0 \U000e0fff a\u0378b",
    "noncharacters": "\ufdd0 \ufdef \ufffe \uffff a\uffffb",
    "noncharacters of the planes": "\U0001fffe\U0001ffff \U0008fffe \U0010fffe\U0010ffff",
    "around the surrogates": "\ud7fb \ud7fc \ud7ff \ue000 a\ud7ffb\ue000c",
    "replacement": "\ufffd \ufffd\ufffd a\ufffdb",
    "object replacement": "\ufffc \ufff9a\ufffab\ufffb",
    "variation selectors": "a\ufe00 \ufe0f \U000e0100 \u845b\U000e0100",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "ends of utf-8 lengths": "\x7f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff",
    "soft hyphen": "co\u00adop\u00ad \u00ad",
    "invisible operators": "a\u2061b\u2062c\u2063d\u2064",
    "interlinear and shorthand": "\U0001bca0\U0001bca3",
    "grapheme joiner": "a\u034fb \u034f",
    "fillers": "\u3164 \uffa0 \u115f\u1160 \u2800",
}

LETTERS = {
    "a x 1000": "a" * 1000,
    "A x 257": "A" * 257,
    "ab x 300": "ab" * 300,
    "abc x 200": "abc" * 200,
    "lol x 100": "lol" * 100,
    "ha x 100": "ha" * 100,
    "the x 100": "the" * 100,
    "e acute x 200": "\u00e9" * 200,
    "e + acute x 200": "e\u0301" * 200,
    "cjk x 300": "\u4e2d" * 300,
    "hangul LVT x 50": "\u1112\u1161\u11ab" * 50,
    "dash x 333": "-" * 333,
    "equals x 100 and newline": "=" * 100 + "\n",
    "dot x 64": "." * 64,
    "zero x 300": "0" * 300,
    "tab x 50": "\t" * 50,
    "crlf x 20": "\r\n" * 20,
    "space a x 100": " a" * 100,
    "a space x 100": "a " * 100,
    "space newline x 30": " \n" * 30,
    "newline space x 30": "\n " * 30,
    "no-break x 30": "\u00a0" * 30,
    "longest german": "Donaudampfschiffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
    "long place": "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch",
    "alphabet x 10": "abcdefghijklmnopqrstuvwxyz" * 10,
    "aAaA": "aA" * 60,
    "emoji zwj run": "\U0001f468\u200d" * 20,
    "quotes run": "'" * 50 + "s" + "\"" * 50,
    "backslashes": "\\" * 65,
    "flag letters": "\U0001f1e6" * 21,
}


def by_hand():
    for group, cases in (("plain", PLAIN), ("contractions", CONTRACTIONS), ("combining", COMBINING),
                         ("hangul", HANGUL), ("script", SCRIPTS), ("number", NUMBERS), ("emoji", EMOJI),
                         ("special", SPECIAL), ("code", CODE), ("white", WHITE), ("control", CONTROL),
                         ("repeat", LETTERS)):
        for name, text in cases.items():
            yield f"{group}: {name}", text


# ---- made by rule --------------------------------------------------------------------------------------------------

def by_rule():
    for n in range(1, 41):
        s = " " * n
        yield f"spaces: {n} alone", s
        yield f"spaces: {n} at start, middle and end", f"{s}a{s}b{s}"
        yield f"spaces: {n} before newline and indented", f"x{s}\n{s}y"
    marks = "\u0301\u0323\u0327\u0334"     # classes 230, 220, 202, 1
    for base in ("e", "\u00e9", " "):
        for i, order in enumerate(itertools.permutations(marks)):
            yield f"mark order: {ord(base):04x}, {i}", base + "".join(order) + "x"
    for c in range(0x80, 0xa0):
        yield f"c1: {c:04x}", f"a{chr(c)}b {chr(c)} {chr(c)}{chr(c)}c"
    for c in (0x00a0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0x200b, 0xfeff, 0x2000, 0x200a, 0x180e, 0x001c):
        yield f"gap: {c:04x} in every place", f"{chr(c)}a{chr(c)}b {chr(c)}c{chr(c)} d{chr(c)}\n{chr(c)} {chr(c)}"


POOLS = {
    "ascii": [(0x20, 0x7e)],
    "ascii and white": [(0x20, 0x7e), (0x09, 0x0d), (0x20, 0x20), (0x0a, 0x0a), (0x20, 0x20)],
    "white": [(0x09, 0x0d), (0x20, 0x20), (0x20, 0x20), (0x85, 0x85), (0xa0, 0xa0), (0x2000, 0x200b), (0x2028, 0x2029),
              (0x3000, 0x3000), (0x61, 0x61)],
    "latin and marks": [(0x41, 0x5a), (0x61, 0x7a), (0xc0, 0x17f), (0x300, 0x36f), (0x300, 0x345), (0x1e00, 0x1eff)],
    "greek and marks": [(0x370, 0x3ff), (0x300, 0x345), (0x1f00, 0x1fff)],
    "hangul": [(0x1100, 0x1112), (0x1161, 0x1175), (0x11a7, 0x11c2), (0xac00, 0xd7a3), (0x20, 0x20)],
    "indic": [(0x900, 0xd7f), (0x900, 0x97f), (0x20, 0x20)],
    "semitic": [(0x590, 0x6ff), (0xfb1d, 0xfdff), (0x20, 0x20)],
    "south-east asia": [(0xe00, 0x109f), (0x1780, 0x18af), (0x1b00, 0x1b7f)],
    "cjk": [(0x3000, 0x30ff), (0x4e00, 0x9fff), (0xf900, 0xfaff), (0x20, 0x20)],
    "symbols": [(0x2000, 0x2bff), (0x20, 0x20), (0x30, 0x39)],
    "digits": [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96f), (0xb2, 0xb3), (0x2150, 0x218b), (0x20, 0x20), (0x61, 0x62)],
    "emoji": [(0x1f300, 0x1faff), (0x1f3fb, 0x1f3ff), (0x200d, 0x200d), (0xfe0f, 0xfe0f), (0x1f1e6, 0x1f1ff)],
    "low planes": [(0x00, 0x7ff), (0x800, 0xd7ff), (0xe000, 0xffff)],
    "high planes": [(0x10000, 0x1ffff), (0x20000, 0x3ffff), (0xe0000, 0x10ffff)],
    "everything": [(0x00, 0x7f), (0x80, 0x7ff), (0x800, 0xd7ff), (0xe000, 0xffff), (0x10000, 0x10ffff)],
    "punctuated words": [(0x61, 0x7a), (0x61, 0x7a), (0x41, 0x5a), (0x20, 0x20), (0x27, 0x27), (0x2c, 0x2e)],
    "specials": None,
}
PIECES = ["<|endoftext|>", "<|padding|>", "<|", "|>", "endoftext", " ", "  ", "   ", "\n", "a", "\u0301", "'s", "'ll",
          "7", "\u4e2d", "!", "\u00a0", "\t", "The", " the"]


def by_chance():
    rng = splitmix(SEED)
    for name, ranges in POOLS.items():
        for i in range(13):
            text = ""
            for _ in range(4 + next(rng) % (44 if ranges else 16)):
                if ranges is None:
                    text += PIECES[next(rng) % len(PIECES)]
                    continue
                low, high = ranges[next(rng) % len(ranges)]
                text += chr(low + next(rng) % (high - low + 1))
            yield f"random: {name} {i}", text


def main():
    tokenizer = tokenizers.Tokenizer.from_file(SOURCE)

    def answer(text):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids, tokenizer.decode(ids, skip_special_tokens=False)

    cases = []
    for name, text in itertools.chain(by_hand(), by_rule(), by_chance()):
        ids, decoded = answer(text)
        nfc = tokenizer.normalizer.normalize_str(text)      # the library's own table, which need not be Python's
        cases.append({"name": name, "text": text, "ids": ids, "nfc": nfc, "decoded": decoded})
    assert len({c["name"] for c in cases}) == len(cases)

    long = []
    for name, unit, count in LONG:
        ids, _ = answer(unit * count)
        long.append({"name": name, "unit": unit, "count": count, "n_ids": len(ids),
                     "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()})

    head = {"script": "make_token_ids.py", "python": platform.python_version(), "tokenizers": tokenizers.__version__}
    with open(SOURCE, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    with open(os.path.join(HERE, "token_ids.json"), "w", newline="\n") as f:
        f.write(f'{{"made_by": {json.dumps(head)},\n "tokenizer_sha256": "{digest}",\n "seed": {SEED},\n "cases": [\n')
        f.write(",\n".join("  " + json.dumps(c) for c in cases))
        f.write('\n ],\n "long": [\n' + ",\n".join("  " + json.dumps(c) for c in long) + "\n ]}\n")
    odd = [c["name"] for c in cases if c["nfc"] != unicodedata.normalize("NFC", c["text"])]
    print(f"{len(cases)} cases, {len(long)} long; where Python {unicodedata.unidata_version} has another NFC: {odd}")
    print("decoded is not the NFC text:", [c["name"] for c in cases if c["decoded"] != c["nfc"]])


if __name__ == "__main__":
    main()
