// The controller's API as the page uses it: token, documents, the event stream. Every request has a deadline; the stream,
// which is to stay open, one for its silence. Nothing here touches the page.

const SILENCE_MS = 35000;
const STORED = "kubereach-token";
const base = new URL(".", document.baseURI);

export class Unauthorized extends Error {}

// The token comes once, in the fragment of the address, which browsers send to nobody; then it leaves the address bar.
export function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token) {
    sessionStorage.setItem(STORED, token);
    fragment.delete("token");
    const rest = fragment.toString();
    history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  }
  return sessionStorage.getItem(STORED) ?? "";
}
export const keepToken = (token) => sessionStorage.setItem(STORED, token);
export const dropToken = () => sessionStorage.removeItem(STORED);

function headers() {
  const token = sessionStorage.getItem(STORED);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export async function get(path, query = {}, deadlineMs = 15000) {
  const address = new URL(`api/v1/${path}`, base);
  for (const [name, value] of Object.entries(query)) address.searchParams.set(name, value);
  const response = await fetch(address, { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(deadlineMs) });
  if (response.status === 401 || response.status === 403) throw new Unauthorized(await words(response));
  if (!response.ok) throw new Error(await words(response));
  return response.json();
}

async function words(response) {
  try {
    const said = await response.json();
    return [said.error, said.hint].filter(Boolean).join("; ") || `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}

// Server-Sent Events read by fetch, since EventSource can send no Authorization header. Resolves when the stream ends.
export async function stream(onOpen, onEvent, signal) {
  const response = await fetch(new URL("api/v1/events", base), {
    headers: { ...headers(), Accept: "text/event-stream" }, cache: "no-store", signal,
  });
  if (response.status === 401 || response.status === 403) throw new Unauthorized(await words(response));
  if (!response.ok || !response.body) throw new Error(await words(response));
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "message", data = [];
  for (;;) {
    const { value, done } = await withDeadline(reader.read(), () => reader.cancel().catch(() => {}));
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) onEvent(name, parsed(data.join("\n")));
        name = "message";
        data = [];
      } else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

// The controller sends a comment every 10 s; a connection that is silent for longer is dead, whatever TCP thinks.
async function withDeadline(read, giveUp) {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => { giveUp(); fail(new Error("the event stream fell silent")); }, SILENCE_MS); });
  try {
    return await Promise.race([read, late]);
  } finally {
    clearTimeout(timer);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
