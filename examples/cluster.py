"""Texts for the rows of a dataset by several processes, or several machines: needs the extra ray.

python examples/cluster.py [MODEL]
"""

import sys

import ray

from fastlm.batch.ray import Pool, generate


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else None
    ray.init(include_dashboard=False, log_to_driver=False)  # with RAY_ADDRESS set: that cluster
    rows = ray.data.from_items([{"id": i, "name": name} for i, name in enumerate(("Tom", "Lily", "Ben", "Sue"))])
    for row in generate(rows, model, "One day {name} found a", pool=Pool(actors=2), max_tokens=30).iter_rows():
        print(f"{row['id']}  One day {row['name']} found a{row['output']}")


if __name__ == "__main__":
    main()
