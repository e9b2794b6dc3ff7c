// Who uses a page: a demo user in development mode, which a link can name (`#user=2`), or whoever has a token or gets one
// from a sign-in endpoint.

import { Session, demoData, settings } from "./api.js";
import { avatar, byId, node, showError } from "./dom.js";
import { signInAt } from "./endpoint.js";
import { onLanguage, t } from "./i18n.js";

/**
 * Fills the card in `#sign-in`, and calls `onSession` with a session, or with null when there is none any more. `title`
 * and `lead` are keys of words; `admin` asks for an administrator's token in development mode.
 */
export class SignIn {
  #options;
  #endpoint = "";
  users = null; // demo users, null outside development mode
  chats = [];

  constructor(options) {
    this.#options = options;
    onLanguage(() => this.#draw());
  }

  async begin() {
    const known = await settings();
    const demo = known.development ? await demoData() : null;
    this.users = demo?.users?.length ? demo.users : null;
    this.chats = demo?.chats ?? [];
    this.#endpoint = known.sign_in;
    this.#draw();
    addEventListener("hashchange", () => this.#fromAddress());
    this.#fromAddress();
  }

  /** The demo user that the address names. */
  get named() {
    const id = new URLSearchParams(location.hash.slice(1)).get("user");
    return this.users && id ? id : null;
  }

  #fromAddress() {
    if (this.named) this.#start(new Session({ demoUser: this.named, admin: this.#options.admin }));
    else if (!location.hash) this.end();
  }

  #start(session) {
    this.error("");
    this.#options.onSession(session);
  }

  show(visible) {
    byId("sign-in").hidden = !visible;
  }

  error(text) {
    showError(byId("sign-in-error"), text);
  }

  /** Back to the choice, with the reason where there is one. */
  end(reason = "") {
    this.#options.onSession(null);
    this.show(true);
    this.error(reason);
    if (location.hash) history.replaceState(null, "", location.pathname);
  }

  #draw() {
    const { title, lead } = this.#options;
    const error = byId("sign-in-error")?.textContent ?? "";
    byId("sign-in").replaceChildren(node("section", { class: "card" },
      node("h2", {}, t(title)),
      node("p", { class: "lead" }, t(lead)),
      node("p", { id: "sign-in-error", class: "error", role: "alert", "data-testid": "sign-in-error", hidden: true }),
      this.users && this.#userChoice(),
      this.#endpointChoice(),
      this.#tokenChoice()));
    this.error(error);
  }

  #userChoice() {
    const choose = (id) => {
      if (this.named === String(id)) this.#fromAddress();
      else location.hash = `user=${id}`;
    };
    return node("div", {},
      node("h3", { id: "user-choice-title" }, t("asDemoUser")),
      node("ul", { class: "users", "data-testid": "users", "aria-labelledby": "user-choice-title" }, this.users.map((user) =>
        node("li", {},
          node("button", { type: "button", class: "user", "data-testid": `user-${user.id}`, onclick: () => choose(user.id) },
            avatar(user.id, user.name),
            node("span", { class: "user-text" },
              node("span", { class: "user-name" }, user.name),
              node("span", { class: "hint" }, t("chatCount", { n: user.chats.length }))))))));
  }

  #tokenChoice() {
    const field = node("textarea", {
      id: "token", "data-testid": "token", rows: 4, spellcheck: "false", autocomplete: "off", autocapitalize: "off", required: true, "aria-describedby": "token-hint",
    });
    const submitted = (event) => {
      event.preventDefault();
      const token = field.value.trim().replace(/^Bearer\s+/i, "");
      field.value = "";
      this.#start(new Session({ token }));
    };
    return node("details", { class: "choice", "data-testid": "token-choice", open: !this.users && !this.#endpoint },
      node("summary", {}, t("withToken")),
      node("form", { class: "fields", "data-testid": "token-form", onsubmit: submitted },
        node("label", { for: "token" }, t("tokenLabel")),
        field,
        node("p", { id: "token-hint", class: "hint" }, t("tokenHint"), " ", node("code", {}, "notify-server token --user 2")),
        node("button", { type: "submit", class: "primary", "data-testid": "token-connect" }, t("connect"))));
  }

  #endpointChoice() {
    const input = (id, label, attributes) => [
      node("label", { for: id }, t(label)),
      node("input", { id, "data-testid": id, required: true, autocapitalize: "off", spellcheck: "false", ...attributes }),
    ];
    const submitted = async (event) => {
      event.preventDefault();
      const [address, name, password] = ["endpoint", "endpoint-user", "endpoint-password"].map((id) => byId(id).value);
      byId("endpoint-password").value = "";
      this.error("");
      this.#busy(true);
      try {
        if (!this.#mayAsk(address)) throw new Error(t("endpointElsewhere"));
        const token = await signInAt(address, name, password);
        this.#start(new Session({ token, issuer: new URL(address, location.origin).host }));
      } catch (error) {
        this.error(error.message);
      } finally {
        this.#busy(false);
      }
    };
    return node("details", { class: "choice", "data-testid": "endpoint-choice", open: !this.users && Boolean(this.#endpoint) },
      node("summary", {}, t("withEndpoint")),
      node("form", { class: "fields", onsubmit: submitted },
        input("endpoint", "endpointLabel", { type: "text", inputmode: "url", value: this.#endpoint || null, placeholder: "/api/signin", "aria-describedby": "endpoint-hint" }),
        node("p", { id: "endpoint-hint", class: "hint" }, t("endpointHint")),
        input("endpoint-user", "userName", { type: "text", autocomplete: "username" }),
        input("endpoint-password", "password", { type: "password", autocomplete: "current-password" }),
        node("button", { id: "endpoint-connect", type: "submit", class: "primary", "data-testid": "endpoint-connect" }, t("signIn"))));
  }

  #busy(whether) {
    byId("endpoint-connect").disabled = whether;
    byId("endpoint-connect").textContent = t(whether ? "signingIn" : "signIn");
  }

  /** The policy of the page says the same, in words that nobody would see. */
  #mayAsk(address) {
    try {
      const allowed = [location.origin, new URL(this.#endpoint || "/", location.origin).origin];
      return allowed.includes(new URL(address, location.origin).origin);
    } catch {
      return false;
    }
  }
}
