// The Usage page's button that freezes a month.

import { send } from "./alerts.js";

export class UsageView {
  constructor(root) {
    this.root = root;
    root.addEventListener("click", (event) => this.click(event));
  }

  close() {}

  async click(event) {
    const pressed = event.target.closest("button[data-act=freeze]");
    if (!pressed) return;
    const said = this.root.querySelector("#us-sign-said");
    const by = this.root.querySelector("#us-by").value.trim();
    const { month, words } = this.root.dataset;
    if (!by) {
      said.textContent = "Write your name beside it: it stands in the audit.";
      return;
    }
    if (!pressed.dataset.sure) {
      // Nothing undoes it, so it is asked for twice.
      pressed.dataset.sure = "true";
      pressed.textContent = `Yes, freeze ${words} for good`;
      return;
    }
    pressed.disabled = true;
    try {
      await send("POST", `/api/v1/months/${month}/freeze`, { by, note: this.root.querySelector("#us-why").value.trim() });
      location.reload();
    } catch (error) {
      said.textContent = error.message;
      pressed.disabled = false;
    }
  }
}
