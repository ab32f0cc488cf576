"""Claims: curvature and landscape."""
