// Which server the components below listen to.

import { createContext, type ReactNode, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Client } from "../src/client.js";
import { Connections } from "../src/connections.js";
import type { Options } from "../src/options.js";
import type { State } from "../src/state.js";

const Context = createContext<Connections | undefined>(undefined);

export interface NotifyProviderProps extends Omit<Options, "channels"> {
  children?: ReactNode;
}

/** Connects the components below; connections are opened by those that listen. Another `url` is another server. */
export function NotifyProvider({ children, ...options }: NotifyProviderProps): ReactNode {
  // Functions that are written in place are others at every rendering; what they do is asked for when it is needed.
  const latest = useRef(options);
  latest.current = options;
  const url = String(options.url);
  const make = (): [string, Connections] => [
    url,
    new Connections({
      ...options,
      getToken: options.getToken && (() => latest.current.getToken?.()),
      onState: (state) => latest.current.onState?.(state),
      onGap: (gap) => latest.current.onGap?.(gap),
      onError: (problem) => latest.current.onError?.(problem),
    }),
  ];
  const [kept, keep] = useState(make);
  let connections = kept;
  if (kept[0] !== url) keep((connections = make()));
  return <Context.Provider value={connections[1]}>{children}</Context.Provider>;
}

/** The connections of the nearest provider. */
export function useConnections(): Connections {
  const connections = useContext(Context);
  if (!connections) throw new Error("this has to be inside of a <NotifyProvider url=…>");
  return connections;
}

/** A connection to the channels for as long as the component is there; `undefined` at the first rendering. */
export function useClient(channels?: readonly string[]): Client | undefined {
  const connections = useConnections();
  const [client, become] = useState<Client>();
  const key = channels?.join();
  useEffect(() => {
    const client = connections.use(key === undefined ? undefined : key.split(","));
    become(client);
    return () => {
      become(undefined);
      connections.release(client);
    };
  }, [connections, key]);
  return client;
}

const CONNECTING: State = { status: "connecting" };

/** How a connection is doing. */
export function useConnectionState(client: Client | undefined): State {
  return useSyncExternalStore(
    (changed) => client?.onState(changed) ?? (() => {}),
    () => client?.state ?? CONNECTING,
    () => CONNECTING,
  );
}
