// The same in Vue.

import { createApp, defineComponent, h } from "vue";
import { notify, useSSE } from "@notify-server/client/vue";

const getToken = async () => (await fetch("/token")).text();
const wanted = new URLSearchParams(location.search);
const target = wanted.has("chat") ? { chatId: wanted.get("chat") } : { sessionId: wanted.get("session") };

const Room = defineComponent(() => {
  const { messages, banner, state, loading, hasOlder, loadOlder } = useSSE({ ...target, limit: 20 });
  return () => [
    h("div", { class: "notify-banner", "data-state": state.value.status }, banner.value),
    hasOlder.value ? h("button", { onClick: loadOlder, disabled: loading.value }, "Older messages") : undefined,
    h("ol", messages.value.map(({ id, text }) => h("li", { key: id, "data-message-id": id }, text))),
  ];
});

createApp(Room).use(notify({ url: location.origin, getToken, maxAttempts: 10 })).mount("#page");
