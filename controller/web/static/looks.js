// One look for one meaning: codes, words, glyphs and units. Colours are variables of style.css, so that light and
// dark have their own. Nothing here touches the page or the network.

export const UNSAMPLED = 0, OK = 1, FAILING = 2, DEGRADED = 3, UNKNOWN = 4, STALE = 5, STARVED = 6, BLOCKED = 7, OPEN = 8;
// What policies say of a cell that nothing measures.
export const ALLOWED = 9, PARTLY = 10, DENIED = 11;

// In the order of the legend. `glyph` is what stands in text; the canvas draws the same shape as lines.
export const LOOKS = [
  { code: OK, name: "ok", glyph: "✓", words: "ok" },
  { code: FAILING, name: "failing", glyph: "✗", words: "failing" },
  { code: DEGRADED, name: "degraded", glyph: "▲", words: "degraded" },
  { code: BLOCKED, name: "blocked", glyph: "⊘", words: "blocked as intended" },
  { code: OPEN, name: "open", glyph: "!", words: "passes, but policy forbids it" },
  { code: UNKNOWN, name: "unknown", glyph: "?", words: "unknown" },
  { code: STALE, name: "stale", glyph: "~", words: "stale: no new data" },
  { code: STARVED, name: "starved", glyph: "…", words: "starved: the agent got no CPU" },
  { code: ALLOWED, name: "allowed", glyph: "+", words: "may pass, not sampled" },
  { code: PARTLY, name: "partly", glyph: "±", words: "some may pass, not sampled" },
  { code: DENIED, name: "denied", glyph: "−", words: "nothing may pass, not sampled" },
  { code: UNSAMPLED, name: "unsampled", glyph: "·", words: "not sampled" },
];
export const BY_CODE = LOOKS.reduce((all, look) => { all[look.code] = look; return all; }, []);
const STATE_CODES = { ok: OK, failing: FAILING, degraded: DEGRADED, unknown: UNKNOWN, stale: STALE, starved: STARVED, unsampled: UNSAMPLED };
const EXPECTED_CODES = { allowed: ALLOWED, partly: PARTLY, denied: DENIED };
export const AS_IT_SHOULD = new Set([OK, BLOCKED, UNSAMPLED, ALLOWED, PARTLY, DENIED]);

// What policy intends goes before what the wire does; a state this page does not know is unknown, never ok.
export function codeOf(state, verdict, expected) {
  if (state === "unsampled") return EXPECTED_CODES[expected] ?? UNSAMPLED;
  if (state === "ok" || state === "failing") {
    if (verdict === "blocked_as_intended") return BLOCKED;
    if (verdict === "unexpected_pass") return OPEN;
  }
  return STATE_CODES[state] ?? UNKNOWN;
}

export const KINDS = [
  ["node", "Nodes", "host and pod network together"],
  ["host", "Host network", "node to node over the hosts' own network"],
  ["pod", "Pod network", "from the pods of one node to the pods of another"],
  ["service", "Services", "from each node to each Service"],
  ["dns", "DNS", "from each node to the DNS Service, its replicas and names"],
  ["egress", "Egress", "from each node to the configured targets outside"],
  ["policy", "Forbidden", "what policies forbid, tried from each node"],
  ["namespace", "Policy by namespace", "what policies let through between namespaces, beside what was seen"],
  ["workload", "Policy by workload", "what policies let through between workloads, beside what was seen"],
];

// Tabs that are read from the policies rather than from the paths.
export const BY_POLICY = new Set(["namespace", "workload"]);

export const VERDICTS = {
  healthy: "healthy",
  blocked_as_intended: "blocked as intended",
  unexpected_block: "blocked, but should pass",
  unexpected_pass: "passes, but should be blocked",
  unknown: "not judged",
};

export function time(us) {
  if (!us) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${+(us / 1000).toPrecision(3)} ms`;
  return `${+(us / 1e6).toPrecision(3)} s`;
}

export function age(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "never";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// A loss that is not nothing never reads as 0 %.
export function loss(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  return `${Math.round(share * 100)} %`;
}

export const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many ?? `${one}s`}`;
