"""Samples as a rival shows them to a model: each is changed when it is asked for, so that a pool is never held."""

from collections.abc import Callable, Iterator, Sequence

from ost.data import Sample, Samples


class Changed(Sequence[Sample]):
    """Some of a sequence's samples, each as a function makes it.

    `places`: of the samples that are meant, counted from 0; None for all.
    """

    def __init__(
        self, samples: Sequence[Sample], change: Callable[[Sample], Sample], places: Sequence[int] | None = None
    ):
        self.samples, self.change = samples, change
        self.places = range(len(samples)) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if not isinstance(place, slice):
            return self.change(self.samples[self.places[place]])
        places = list(self.places[place])
        found = self.samples.at(places) if isinstance(self.samples, Samples) else [self.samples[at] for at in places]
        return list(map(self.change, found))

    def __iter__(self) -> Iterator[Sample]:
        if isinstance(self.places, range) and self.places == range(len(self.samples)):  # read in their order
            return map(self.change, self.samples)
        return (self[place] for place in range(len(self)))
