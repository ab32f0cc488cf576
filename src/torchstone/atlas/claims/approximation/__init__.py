"""Claims: approximation and expressivity."""
