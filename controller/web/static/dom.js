// Elements from text, never from markup: names come from the cluster and are not trusted.

export const byId = (id) => document.getElementById(id);

// element("p", {class: "x", onclick: f}, "text", child, …); children that are null or false are left out.
export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...shown(children));
  return made;
}

export const fill = (node, ...children) => node.replaceChildren(...shown(children));
const shown = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

export function badge(look, words) {
  return element("span", { class: `badge ${look.name}` }, element("span", { "aria-hidden": "true" }, look.glyph), ` ${words ?? look.words}`);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export async function copy(text, button) {
  let words = "copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS the clipboard is closed to scripts: selecting the text is the next best.
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    words = "selected: press Ctrl-C";
  }
  button.textContent = words;
  setTimeout(() => { button.textContent = "copy"; }, 2000);
}
