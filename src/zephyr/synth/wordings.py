"""Our own sentences for the instructions that answers can be checked for: several for each, with their options in them.

A name in braces is an option of the instruction; lists are written out, and languages named.
"""

from collections.abc import Mapping

# By instruction, and where it has a relation by that as well.
WORDINGS: Mapping[str, tuple[str, ...]] = {
    "keywords:existence": (
        "Use {keywords} somewhere in your answer.",
        "Make sure that your answer mentions {keywords}.",
        "Your reply has to contain {keywords}.",
        "Work {keywords} into what you write.",
        "I want to read {keywords} in the text.",
    ),
    "keywords:frequency at least": (
        'Use the word "{keyword}" at least {frequency} times.',
        'The word "{keyword}" must come up {frequency} times or more.',
        'Write "{keyword}" no fewer than {frequency} times.',
        'I expect to find "{keyword}" at least {frequency} times in your answer.',
    ),
    "keywords:frequency less than": (
        'Use the word "{keyword}" fewer than {frequency} times.',
        'The word "{keyword}" must come up less than {frequency} times.',
        'Write "{keyword}" less often than {frequency} times in all.',
        'Do not let "{keyword}" appear {frequency} times or more.',
    ),
    "keywords:forbidden_words": (
        "Do without {forbidden_words}.",
        "Never use {forbidden_words} in your answer.",
        "Avoid {forbidden_words} entirely.",
        "Your text may not contain {forbidden_words}.",
        "Find other ways to say it than {forbidden_words}.",
    ),
    "keywords:letter_frequency at least": (
        "The letter {letter} should turn up at least {let_frequency} times.",
        "Let the letter {letter} occur {let_frequency} times or more.",
        "Write so that the text has at least {let_frequency} of the letter {letter}, large or small.",
        "Use the letter {letter} no fewer than {let_frequency} times.",
    ),
    "keywords:letter_frequency less than": (
        "The letter {letter} should turn up fewer than {let_frequency} times.",
        "Let the letter {letter} occur less than {let_frequency} times.",
        "Keep the letter {letter}, large or small, to fewer than {let_frequency} occurrences.",
        "Do not use the letter {letter} {let_frequency} times or more.",
    ),
    "language:response_language": (
        "Answer in {language} only.",
        "Write the whole reply in {language}, without any other language.",
        "I read {language} and nothing else, so please answer in it.",
        "Every sentence of your answer must be in {language}.",
        "Please respond entirely in {language}.",
    ),
    "length_constraints:number_sentences at least": (
        "Write at least {num_sentences} sentences.",
        "Your answer needs {num_sentences} sentences or more.",
        "Take no fewer than {num_sentences} sentences to answer.",
        "I would like to read {num_sentences} sentences at the least.",
    ),
    "length_constraints:number_sentences less than": (
        "Write fewer than {num_sentences} sentences.",
        "Your answer must stay below {num_sentences} sentences.",
        "Say it in less than {num_sentences} sentences.",
        "Stop before you reach {num_sentences} sentences.",
    ),
    "length_constraints:number_paragraphs": (
        "Divide your answer into {num_paragraphs} paragraphs, and put *** between them.",
        "Write exactly {num_paragraphs} paragraphs with the markdown divider *** from one to the next.",
        "Your answer should have {num_paragraphs} parts that are separated by ***.",
        "Give me {num_paragraphs} paragraphs; mark each break between two of them with ***.",
    ),
    "length_constraints:number_words at least": (
        "Write at least {num_words} words.",
        "Your answer needs {num_words} words or more.",
        "Make it {num_words} words long at the least.",
        "Do not write less than {num_words} words.",
    ),
    "length_constraints:number_words less than": (
        "Write fewer than {num_words} words.",
        "Your answer must stay below {num_words} words.",
        "Keep it shorter than {num_words} words.",
        "Use less than {num_words} words in all.",
    ),
    "length_constraints:nth_paragraph_first_word": (
        'Write {num_paragraphs} paragraphs, divided by empty lines; number {nth_paragraph} begins with "{first_word}".',
        'Separate {num_paragraphs} paragraphs by blank lines, and start number {nth_paragraph} with "{first_word}".',
        'Put two line breaks between {num_paragraphs} paragraphs; start number {nth_paragraph} with "{first_word}".',
        'Let paragraph {nth_paragraph} of {num_paragraphs} open with "{first_word}"; part them by empty lines.',
    ),
    "detectable_content:number_placeholders": (
        "Leave at least {num_placeholders} placeholders in square brackets, like [name].",
        "Where details are missing, put placeholders such as [date], {num_placeholders} of them or more.",
        "Have no fewer than {num_placeholders} fields to fill in, each in square brackets, as in [place].",
        "Include {num_placeholders} or more bracketed placeholders, for example [company].",
    ),
    "detectable_content:postscript": (
        "Close with a postscript that begins with {postscript_marker}",
        "Add a last note, which starts with {postscript_marker}",
        "After the answer itself, write a postscript marked {postscript_marker}",
        "I also want a postscript at the end; introduce it by {postscript_marker}",
    ),
    "detectable_format:number_bullet_lists": (
        "Give exactly {num_bullets} bullet points, each on a line that begins with an asterisk and a space.",
        "Your answer must have {num_bullets} bullets in markdown (* like this), no more and no fewer.",
        "List {num_bullets} items as markdown bullets, written as * item.",
        "There should be precisely {num_bullets} bullet points of the form * point.",
    ),
    "detectable_format:constrained_response": (
        'Reply with one of these three: "My answer is yes.", "My answer is no.", "My answer is maybe."',
        'Choose your reply from "My answer is yes.", "My answer is no." and "My answer is maybe."',
        'Say either "My answer is yes." or "My answer is no."; if you cannot tell, say "My answer is maybe."',
        'Only "My answer is yes.", "My answer is no." or "My answer is maybe." will do as a reply.',
    ),
    "detectable_format:number_highlighted_sections": (
        "Highlight at least {num_highlights} passages in markdown, like *this one*.",
        "Set {num_highlights} or more parts of the text between asterisks, as in *an important part*.",
        "Mark no fewer than {num_highlights} phrases as *highlighted*.",
        "Emphasise {num_highlights} passages at the least with markdown asterisks, *like so*.",
    ),
    "detectable_format:multiple_sections": (
        "Make {num_sections} sections with the headings {section_spliter} 1, {section_spliter} 2 and so on.",
        "Have {num_sections} sections, each begun by {section_spliter} and its number.",
        "Your answer needs {num_sections} sections, marked {section_spliter} X, where X counts from 1.",
        "Split the text into {num_sections} sections; each starts with the word {section_spliter} and a number.",
    ),
    "detectable_format:json_format": (
        "Give the whole answer as valid JSON.",
        "Your complete output has to be one JSON value; a markdown code block around it is fine.",
        "Format everything you write as JSON, with nothing outside it.",
        "I will parse your reply as JSON, so write nothing else.",
    ),
    "detectable_format:title": (
        "Give your answer a title in double angle brackets, such as <<a day by the sea>>.",
        "Put a title on it, written as <<title>>.",
        "There has to be a title, enclosed in << and >>.",
        "Head the text with a title between double angle brackets, like <<morning>>.",
    ),
    "combination:two_responses": (
        "Give two different answers, and separate them by six asterisks: ******",
        "I want two alternatives that are not the same, with ****** between them and nowhere else.",
        "Answer twice in different ways. Put ****** between the first answer and the second.",
        "Write two distinct versions, divided by a line of six asterisks (******).",
    ),
    "combination:repeat_prompt": (
        "Before you answer, repeat the request above word for word, with nothing in front; leave this sentence out.",
        "First write out my request again, without a change and without this last remark, and then your answer.",
        "Begin by copying the request above exactly, though not this sentence, and answer it after that.",
        "Start your reply with the text of the request, unchanged and without this instruction; the answer follows it.",
    ),
    "startend:end_checker": (
        'End with the words "{end_phrase}" and add nothing after them.',
        "The very last thing you write must be: {end_phrase}",
        'Finish by saying exactly "{end_phrase}"',
        "Let your answer close with this phrase, and with no word behind it: {end_phrase}",
    ),
    "startend:quotation": (
        "Put your whole answer in double quotation marks.",
        "Everything you write should stand between double quotes.",
        'Open your answer with " and close it with " as well.',
        "Wrap the full reply in double quotation marks.",
    ),
    "change_case:capital_word_frequency at least": (
        "Write at least {capital_frequency} words in CAPITALS.",
        "Have {capital_frequency} or more words entirely in capital letters.",
        "Put no fewer than {capital_frequency} words in all caps.",
        "I would like {capital_frequency} words at the least to be in upper case from the first letter to the last.",
    ),
    "change_case:capital_word_frequency less than": (
        "Write fewer than {capital_frequency} words entirely in capital letters.",
        "Words in all caps should come up less than {capital_frequency} times.",
        "Keep the number of words that are wholly in capitals below {capital_frequency}.",
        "There may not be {capital_frequency} or more words in capital letters only.",
    ),
    "change_case:english_capital": (
        "Write in English, and in capital letters only.",
        "Your whole answer has to be in upper-case English.",
        "Use nothing but capitals; the language is English.",
        "Answer in English with every letter a capital.",
    ),
    "change_case:english_lowercase": (
        "Write in English, and in small letters only.",
        "Your whole answer has to be in lower-case English, without one capital.",
        "Use no capital letters at all; the language is English.",
        "Answer in English with every letter in lower case.",
    ),
    "punctuation:no_comma": (
        "Do not use any commas.",
        "Your answer must do without commas.",
        "Write it with no comma anywhere.",
        "Leave out commas completely.",
        "Commas are not allowed in your reply.",
    ),
}
# What stands before several constraints that are written as a list.
INTRODUCTIONS = (
    "Please keep to the following:",
    "There are some conditions:",
    "Your answer has to meet these requirements:",
    "Mind these points:",
)
LANGUAGE_NAMES: Mapping[str, str] = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "de": "German", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "kn": "Kannada", "ko": "Korean", "ml": "Malayalam", "mr": "Marathi", "ne": "Nepali",
    "pa": "Punjabi", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "th": "Thai", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese",
}  # fmt: skip
END_PHRASES = (
    "That is all for now.", "I hope this helps.", "Let me know what you think.", "And that settles it.",
    "More on this another day.", "What would you add?", "Thank you for reading.", "Here the story ends.",
    "Is there more you want to know?", "Good luck with it!",
)  # fmt: skip
SECTION_WORDS = ("Section", "SECTION", "Part", "PART", "Chapter", "Step")
POSTSCRIPT_MARKERS = ("P.S.", "P.P.S")
# Words that fit into texts of many kinds.
KEYWORDS = (
    "balance", "bridge", "careful", "centre", "change", "choice", "city", "clear", "common", "corner", "country",
    "culture", "daily", "decision", "detail", "distance", "early", "effort", "energy", "evening", "example",
    "family", "famous", "field", "forest", "friend", "future", "garden", "gentle", "growth", "habit", "health",
    "history", "honest", "important", "island", "journey", "knowledge", "language", "learn", "letter", "library",
    "light", "market", "memory", "method", "moment", "morning", "mountain", "music", "nature", "neighbour", "ocean",
    "pattern", "people", "planet", "practice", "problem", "purpose", "question", "quiet", "reason", "result",
    "river", "season", "secret", "simple", "skill", "small", "solution", "story", "strong", "student", "summer",
    "support", "system", "teacher", "together", "tradition", "travel", "trust", "useful", "village", "weather",
    "winter", "wisdom", "window", "wonder", "world", "young",
)  # fmt: skip
FIRST_WORDS = (
    "first", "then", "later", "still", "today", "often", "perhaps", "now", "because", "although", "finally", "once",
    "indeed", "people", "every", "there",
)  # fmt: skip
COMMON_LETTERS = "abcdefghilmnoprstuwy"
RARE_LETTERS = "jqxzkv"
