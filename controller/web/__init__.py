"""HTTP: the API for people and agents, the event stream, metrics, the page. The only home of aiohttp here."""
