#!/usr/bin/env python3
"""Compares the search with other engines and with people's words, on the names of 5,491 icons (npm @tabler/icons, MIT).

- Every score of the lexical index equals that of Tantivy's BM25, also after products were changed and removed.
- Icons are found by names with one typo, and by tags that their text does not contain.

search.py PROGRAM ICONS [QUERIES [SPLIT [ENCODE MODEL]]]: the built example `search` of the crate `domain`, the file `icons.json`, the
number of queries of each kind, and `validation`, on which settings are chosen, or `test` (the default). With the built example
`encode` of the crate `encoder` and the folder of a model, vectors are those of a sentence encoder.
"""

import json
import math
import random
import subprocess
import sys

import tantivy

program, icons, *rest = sys.argv[1:]
count = int(rest[0]) if rest else 300
split = rest[1] if len(rest) > 1 else "test"
encoder = rest[2:]
icons = json.load(open(icons))
names = [name.replace("-", " ") for name in sorted(icons)]
categories = [icons[name]["category"] for name in sorted(icons)]
NAME, CATEGORY = 3, 2


def run(lines, command=(program,)):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def insert(number, name, category):
    return {"insert": number, "fields": [[name, NAME], [category, CATEGORY]]}


def compare_with_tantivy():
    """The scores after changes and removals are those of Tantivy over the products that are left."""
    draw = random.Random(1)
    products, lines = {}, []
    for number, (name, category) in enumerate(zip(names, categories)):
        products[number] = (name, category)
        lines.append(insert(number, name, category))
    for number in draw.sample(sorted(products), 2_000):
        products[number] = products[draw.choice(sorted(products))]
        lines.append(insert(number, *products[number]))
    for number in draw.sample(sorted(products), 1_500):
        del products[number]
        lines.append({"remove": number})
    texts = [text for product in products.values() for text in product]
    split_texts = iter(run([{"words": text} for text in texts]))
    # A field of weight 3 counts like a text that is repeated three times.
    bodies = {number: next(split_texts) * NAME + next(split_texts) * CATEGORY for number in products}
    # Tantivy stores the lengths of longer texts approximately.
    assert max(map(len, bodies.values())) <= 40

    schema = tantivy.SchemaBuilder()
    schema.add_integer_field("number", stored=True)
    schema.add_text_field("body", tokenizer_name="words")
    schema = schema.build()
    index = tantivy.Index(schema)
    index.register_tokenizer("words", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    writer = index.writer(num_threads=1)
    for number, body in bodies.items():
        writer.add_document(tantivy.Document(number=number, body=" ".join(body)))
    writer.commit()
    index.reload()
    searcher = index.searcher()

    # Words without longer or shorter forms, which would be found as well.
    known = sorted({word for body in bodies.values() for word in body})
    begins = lambda word, other: word != other and other.startswith(word) and len(other) < 3 * len(word)
    alone = [word for word in known if not any(begins(word, other) or begins(other, word) for other in known)]
    queries = [draw.sample(alone, draw.randint(1, 4)) for _ in range(500)]
    found = run(lines + [{"search": " ".join(query), "mode": "lexical", "limit": len(products)} for query in queries])
    compared = 0
    for query, ours in zip(queries, found, strict=True):
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "body", word)) for word in query]
        hits = searcher.search(tantivy.Query.boolean_query(terms), len(products)).hits
        theirs = {searcher.doc(address)["number"][0]: score for score, address in hits}
        assert theirs.keys() == {number for number, _ in ours}, query
        for number, score in ours:
            assert math.isclose(score, theirs[number], rel_tol=2e-6), (query, number, score, theirs[number])
        assert [score for _, score in ours] == sorted((score for _, score in ours), reverse=True)
        compared += len(ours)
    print(f"search: {compared} scores of {len(queries)} queries equal those of Tantivy {tantivy.__version__}")


def typo(word, draw):
    """One letter removed, inserted, replaced or exchanged with the next one."""
    while True:
        at, letter = draw.randrange(len(word)), draw.choice("abcdefghijklmnopqrstuvwxyz")
        start, end = word[:at], word[at:]
        edited = draw.choice([start + end[1:], start + letter + end, start + letter + end[1:], start + end[1:2] + end[:1] + end[2:]])
        if edited != word:
            return edited


def names_with_typos(draw):
    queries = []
    for number, name in enumerate(names):
        words = name.split()
        long = [at for at, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
        if long:
            at = draw.choice(long)
            queries.append((" ".join(words[:at] + [typo(words[at], draw)] + words[at + 1 :]), {number}))
    return queries


def synonyms(draw):
    """Tags of 2 to 20 icons, of whose words the text of none of them contains one."""
    tagged = {}
    for number, name in enumerate(sorted(icons)):
        for tag in icons[name].get("tags", []):
            tagged.setdefault(str(tag).lower().replace("-", " "), set()).add(number)
    text = [set((name + " " + category.lower()).split()) for name, category in zip(names, categories)]
    return [
        (tag, relevant)
        for tag, relevant in sorted(tagged.items())
        if 2 <= len(relevant) <= 20 and len(tag) > 2 and not any(text[number] & set(tag.split()) for number in relevant)
    ]


def with_vectors(lines, texts):
    """The lines with the vectors of their texts, if there is an encoder."""
    if not encoder:
        return lines
    return [{**line, "vector": answer["vector"]} for line, answer in zip(lines, run(texts, encoder), strict=True)]


def measure(queries):
    """nDCG@10 and hit@10 of each mode."""
    modes = ["lexical", "semantic", "hybrid"]
    lines = [insert(number, *product) for number, product in enumerate(zip(names, categories))]
    # As the server joins the texts of a product.
    lines = with_vectors(lines, [f"{name}. {category}" for name, category in zip(names, categories)])
    searches = with_vectors([{"search": query, "limit": 10} for query, _ in queries], [query for query, _ in queries])
    lines += [{**search, "mode": mode} for search in searches for mode in modes]
    answers = iter(run(lines))
    sums = {mode: [0.0, 0.0] for mode in modes}
    for _, relevant in queries:
        for mode in modes:
            gains = [number in relevant for number, _ in next(answers)]
            gained = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
            best = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant))))
            sums[mode][0] += gained / best / len(queries)
            sums[mode][1] += any(gains) / len(queries)
    return sums


def measure_quality():
    for kind, make in [("names with one typo", names_with_typos), ("synonyms", synonyms)]:
        draw = random.Random(7)
        queries = make(draw)
        draw.shuffle(queries)
        half = len(queries) // 2
        queries = (queries[:half] if split == "validation" else queries[half:])[:count]
        result = measure(queries)
        figures = ", ".join(f"{mode} nDCG@10 {ndcg:.3f} hit@10 {hit:.3f}" for mode, (ndcg, hit) in result.items())
        print(f"search: {len(queries)} {kind} ({split}): {figures}")
        hybrid = result["hybrid"]
        if kind == "synonyms":
            assert hybrid[0] >= max(result["lexical"][0], result["semantic"][0]) - 0.01
        else:
            assert hybrid[1] >= 0.95


compare_with_tantivy()
measure_quality()
