"""Graphs by plain loops."""


def components_slowly(edges, num_nodes):
    """Component of each node, numbered by their lowest nodes."""
    label = list(range(num_nodes))
    for a, b in edges:
        low, high = sorted((label[a], label[b]))
        label = [low if x == high else x for x in label]
    numbers = {x: i for i, x in enumerate(dict.fromkeys(label))}
    return [numbers[x] for x in label]


def forest_slowly(edges, weights, num_nodes):
    """Kruskal: edges by falling weight, ties to the lower edge, unless they close a circle."""
    label = list(range(num_nodes))
    taken = []
    for e in sorted(range(len(edges)), key=lambda e: (-weights[e], e)):
        a, b = (label[n] for n in edges[e])
        if a != b:
            taken.append(e)
            label = [a if x == b else x for x in label]
    return taken
