/** Shows that the script has run. */
export function mark(element) {
  element.addEventListener("click", () => element.toggleAttribute("data-marked"));
}
