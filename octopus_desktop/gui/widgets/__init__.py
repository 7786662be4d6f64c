"""What several pages use. Widgets receive values and the theme; they know neither store nor client."""
