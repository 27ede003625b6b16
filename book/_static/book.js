// What the theme leaves undone for those who read by keyboard or by ear.
window.addEventListener("load", () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);

  // Folds are named by what they hold, not all of them "Toggle hidden content".
  each("summary[aria-label]", (summary) => summary.removeAttribute("aria-label"));
  each(".admonition-title > .toggle-button", (button) => {
    button.setAttribute("aria-label", `Show or hide: ${button.parentElement.textContent.trim()}`);
  });

  // A header that heads nothing, in the corner of a table.
  each("th", (cell) => {
    if (!cell.textContent.trim()) cell.replaceWith(document.createElement("td"));
  });

  // An entry of the bibliography is no child that a list may have, and a list of parameters defines nothing.
  each(".citation-list, .citation", (entry) => entry.removeAttribute("role"));
  each(".sig dl, .sig dd", (part) => part.setAttribute("role", "none"));

  // The theme puts what scrolls into the reach of a keyboard, but not tables on pages without cells, and it looks
  // again only after a change of width.
  const reach = () => each("div.text_html, figure", (box) => (box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1));
  reach();
  window.addEventListener("resize", reach);
  for (const event of ["toggle", "click"]) {
    document.addEventListener(event, () => window.dispatchEvent(new Event("resize")), true);
  }
});
