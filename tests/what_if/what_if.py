#!/usr/bin/env python3
"""Compares the off-policy estimates with those of the Python package obp, on logs of simulated worlds.

IPS, SNIPS and the doubly robust estimate must be the same to 1e-9, and over 100 worlds of each kind the intervals of 95 % must
hold the truth at least 90 times.

what_if.py PROGRAM: the built example `what_if` of the crate `domain`.
"""

import importlib
import json
import subprocess
import sys
import types

import numpy as np

program = sys.argv[1]


def estimators():
    """The module obp.ope.estimators alone.

    What it imports besides NumPy is large, and not needed for NumPy's arrays: pandas and PyTorch are for the types of its
    arguments, and scikit-learn is for the random numbers of its bootstrap, which is not compared.
    """
    names = ("pandas", "torch", "sklearn", "sklearn.utils")
    sys.modules |= {name: types.ModuleType(name) for name in names}
    sys.modules["torch"].Tensor = type("Tensor", (), {})
    sys.modules["sklearn.utils"].check_random_state = np.random.RandomState
    import obp

    # Without its __init__, which imports all other estimators.
    ope = types.ModuleType("obp.ope")
    ope.__path__ = [f"{obp.__path__[0]}/ope"]
    sys.modules["obp.ope"] = ope
    return importlib.import_module("obp.ope.estimators")


def world(seed, users, slots, products, rate):
    """A log of users × slots, in which the probabilities of each product are known, and what the other ranking would have got."""
    random = np.random.default_rng(seed)
    rounds = users * slots
    user = np.repeat(np.arange(users), slots)
    # A user likes some products more than others, in each slot.
    liking = random.gamma(2, 0.5, (users, products)) * rate
    rates = np.minimum(liking[user], 1)
    served = random.dirichlet(np.full(products, 2.0), rounds) * 0.9 + 0.1 / products
    other = random.dirichlet(np.full(products, 1.0), rounds)
    action = (served.cumsum(axis=1) < random.random(rounds)[:, None] * served.sum(axis=1)[:, None]).sum(axis=1)
    action = np.minimum(action, products - 1)
    at = np.arange(rounds)
    reward = (random.random(rounds) < rates[at, action]).astype(float)
    model = np.full((rounds, products), rate) * random.uniform(0.5, 1.5, products)
    return {
        "user": user, "reward": reward, "action": action, "propensity": served[at, action], "other": other, "model": model,
        "truth": (rates * other).sum(axis=1).mean(),
    }


def slots_of(log):
    at = np.arange(len(log["reward"]))
    columns = {
        "user": log["user"], "reward": log["reward"], "propensity": log["propensity"],
        "probability": log["other"][at, log["action"]], "expected": log["model"][at, log["action"]],
        "expected_of_other": (log["model"] * log["other"]).sum(axis=1),
    }
    rows = zip(*(column.tolist() for column in columns.values()))
    return [dict(zip(columns, row)) for row in rows]


def evaluated(logs):
    lines = "".join(json.dumps(slots_of(log)) + "\n" for log in logs)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_obp(module, log):
    common = {"reward": log["reward"], "action": log["action"], "pscore": log["propensity"], "action_dist": log["other"][:, :, None]}
    return {
        "ips": module.InverseProbabilityWeighting().estimate_policy_value(**common),
        "snips": module.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**common),
        "doubly_robust": module.DoublyRobust().estimate_policy_value(
            **common, estimated_rewards_by_reg_model=log["model"][:, :, None]
        ),
    }


module = estimators()
failed = False
kinds = {"many users": (1000, 3, 4, 0.1), "few users": (50, 40, 4, 0.1), "rare rewards": (2000, 3, 3, 0.01)}
for name, (users, slots, products, rate) in kinds.items():
    logs = [world(seed, users, slots, products, rate) for seed in range(100)]
    answers = evaluated(logs)
    furthest, held = 0.0, dict.fromkeys(("ips", "snips", "doubly_robust"), 0)
    for log, answer in zip(logs, answers):
        for estimator, value in of_obp(module, log).items():
            ours = answer["estimates"][estimator]
            furthest = max(furthest, abs(ours["value"] - value))
            held[estimator] += int(ours["low"] <= log["truth"] <= ours["high"])
    told = sum(answer["evaluation"]["cannot_tell"] is None for answer in answers)
    print(f"{name}: the largest difference from obp is {furthest:.1e}; intervals that hold the truth in 100 worlds: {held}; told: {told}")
    failed |= furthest > 1e-9 or min(held.values()) < 90 or told < 90
sys.exit("the estimates differ, or their intervals are too narrow" if failed else 0)
