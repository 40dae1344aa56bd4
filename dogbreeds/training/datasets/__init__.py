"""From a data set, wherever it is, to disjoint splits of checked photos."""
